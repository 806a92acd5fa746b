//! The servers behind all proxies: an nginx that answers a few bytes, and a source of 1 GiB.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use super::subject::{self, Running};
use super::write;
use crate::Error;

/// The bytes of a large answer.
pub(super) const BULK: u64 = 1 << 30;

/// The servers, which stop with this value.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    /// Sends [`BULK`] bytes.
    pub(super) bulk: SocketAddr,
    _nginx: Running,
}

impl Origin {
    pub(super) fn start(directory: &Path) -> Result<Self, Error> {
        let address = subject::free_address()?;
        let text = format!(
            "daemon off; master_process off; pid {0}/origin.pid; error_log {0}/origin.log;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/origin;\n\
               server {{ listen {address} backlog=8192; location / {{ return 200 \"hello, world\\n\"; }} }}\n\
             }}\n",
            directory.display()
        );
        let config = write(directory, "origin.conf", &text)?;
        let nginx = Running::start("nginx", &["-c", &config.display().to_string()], address)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let bulk = listener.local_addr()?;
        // It ends with the process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                std::thread::spawn(move || send(&connection)); // an error is the client's, who reports it
            }
        });
        Ok(Self { address, bulk, _nginx: nginx })
    }
}

fn send(mut connection: &TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        head.extend(byte);
    }
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {BULK}\r\nConnection: close\r\n\r\n")?;
    let piece = vec![b'x'; 1 << 18];
    for _ in 0..BULK / piece.len() as u64 {
        connection.write_all(&piece)?;
    }
    Ok(())
}
