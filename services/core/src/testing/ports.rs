//! Ports that stay free for a store while it is down.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
};

use uuid::Uuid;

/// Below the range that Linux takes the ports of outgoing connections from, so that none of them grabs the port of a
/// store between its kill and its restart.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// A port of 127.0.0.1 that no other test process claims as long as this value lives.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    _claim: File,
}

impl Port {
    pub(super) fn claim() -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("commerce-ports-{}", super::process::user()?));
        fs::create_dir_all(&folder)?;
        loop {
            let number = random_port();
            let claim = File::options()
                .create(true)
                .append(true)
                .open(folder.join(number.to_string()))?;
            let free = claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            if free {
                return Ok(Self {
                    number,
                    _claim: claim,
                });
            }
        }
    }
}

fn random_port() -> u16 {
    let [.., high, low] = Uuid::new_v4().into_bytes();
    FIRST + u16::from_be_bytes([high, low]) % (LAST - FIRST)
}
