//! The servers behind all proxies: an nginx that answers a few bytes, and a source of 1 GiB.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::subject::{self, Running};
use super::write;
use crate::Error;

/// The bytes of a large answer.
pub(super) const BULK: u64 = 1 << 30;

/// A server, which listens on a port and on a Unix socket.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) path: PathBuf,
}

/// The servers, which stop with this value.
pub(super) struct Origin {
    /// Answers a few bytes.
    pub(super) small: Server,
    /// Sends [`BULK`] bytes.
    pub(super) bulk: Server,
    _nginx: Running,
}

impl Origin {
    pub(super) fn start(directory: &Path) -> Result<Self, Error> {
        let small = Server { address: subject::free_address()?, path: directory.join("origin.sock") };
        let text = format!(
            "daemon off; master_process off; pid {0}/origin.pid; error_log {0}/origin.log;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/origin;\n\
               server {{ listen {1} backlog=8192; listen unix:{2} backlog=8192;\n\
                 location / {{ return 200 \"hello, world\\n\"; }} }}\n\
             }}\n",
            directory.display(),
            small.address,
            small.path.display()
        );
        let config = write(directory, "origin.conf", &text)?;
        let nginx = Running::start("nginx", &["-c", &config.display().to_string()], small.address)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let bulk = Server { address: listener.local_addr()?, path: directory.join("bulk.sock") };
        let unix = UnixListener::bind(&bulk.path)?;
        // They end with the process.
        std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
        std::thread::spawn(move || unix.incoming().flatten().for_each(serve));
        Ok(Self { small, bulk, _nginx: nginx })
    }
}

fn serve(mut connection: impl Read + Write + Send + 'static) {
    std::thread::spawn(move || send(&mut connection)); // an error is the client's, who reports it
}

fn send(connection: &mut (impl Read + Write)) -> std::io::Result<()> {
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
