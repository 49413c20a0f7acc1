//! Stands between the API and a store: counts, holds up, slows down and cuts off.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use commerce_core::elasticsearch::ElasticsearchConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// What becomes of what is sent through a [`Proxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    Freely,
    /// Each answer comes so much later.
    After(Duration),
    /// Questions are taken and kept back.
    Never,
    /// Connections are closed.
    Refused,
}

pub struct Proxy {
    pub address: SocketAddr,
    passing: watch::Sender<Passing>,
    searches: Arc<AtomicUsize>,
}

impl Proxy {
    /// Passes everything on to `target`.
    pub async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passing, watched) = watch::channel(Passing::Freely);
        let searches = Arc::new(AtomicUsize::new(0));
        let counter = searches.clone();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let (mut watched, counter) = (watched.clone(), counter.clone());
                tokio::spawn(async move {
                    let refused = watched.clone();
                    tokio::select! {
                        _ = watched.wait_for(|passing| *passing == Passing::Refused) => {}
                        () = carry(caller, target, refused, &counter) => {}
                    }
                });
            }
        });
        Self {
            address,
            passing,
            searches,
        }
    }

    /// One through which `config` leads from now on.
    pub async fn before_elasticsearch(config: &mut ElasticsearchConfig) -> Self {
        let proxy = Self::before(config.url.socket_addrs(|| None).unwrap()[0]).await;
        config.url = format!("http://{}", proxy.address).parse().unwrap();
        proxy
    }

    /// From now on.
    pub fn pass(&self, passing: Passing) {
        self.passing.send_replace(passing);
    }

    /// How many searches have arrived here.
    pub fn searches(&self) -> usize {
        self.searches.load(Ordering::SeqCst)
    }
}

/// Until one side ends.
async fn carry(
    mut caller: TcpStream,
    target: SocketAddr,
    passing: watch::Receiver<Passing>,
    searches: &AtomicUsize,
) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut questions, mut to_caller) = caller.split();
    let (mut answers, mut to_server) = server.split();
    let mut open = passing.clone();
    let up = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = questions.read(&mut buffer).await {
            if String::from_utf8_lossy(&buffer[..length]).contains("/_search") {
                searches.fetch_add(1, Ordering::SeqCst);
            }
            let opened = open.wait_for(|passing| *passing != Passing::Never).await.is_ok();
            if !opened || to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = answers.read(&mut buffer).await {
            let now = *passing.borrow();
            if let Passing::After(delay) = now {
                sleep(delay).await;
            }
            if to_caller.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
