//! A network that can be cut.

use std::net::SocketAddr;

use futures::future;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, ports::Port, process::failure};

/// Passes connections on to a store, on a port of its own.
///
/// While it is cut, connections stay open and nothing passes, in either direction, as when a network drops packets: neither side
/// is told. What was sent meanwhile arrives when it is mended, also at a server that has gone on without the client.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    whole: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens, for connections to `target`: `host:port`.
    pub async fn start(target: String) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("proxy", "finding a port"))?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port.number)))
            .await
            .map_err(failure("proxy", "listening"))?;
        let (whole, state) = watch::channel(true);
        let task = tokio::spawn(accept(listener, target, state));
        Ok(Self {
            port,
            whole,
            _task: AbortOnDropHandle::new(task),
        })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Lets nothing pass any more.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: String, whole: watch::Receiver<bool>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (target, whole) = (target.clone(), whole.clone());
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            future::join(
                pass(from_client, to_server, whole.clone()),
                pass(from_server, to_client, whole),
            )
            .await;
        });
    }
}

/// Ends with the connection. Either side's end is passed on.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if whole.wait_for(|whole| *whole).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
