//! A proxy that simulates a distant server: bytes are delayed in each direction and stay in order.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A proxy that delays.
pub struct Delay {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Delay {
    /// Forwards to `target` with a delay of `each_way` in each direction.
    pub async fn to(target: SocketAddr, each_way: Duration) -> Delay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_read, near_write), (far_read, far_write)) =
                        (near.into_split(), far.into_split());
                    tokio::join!(
                        carry(near_read, far_write, each_way),
                        carry(far_read, near_write, each_way)
                    );
                });
            }
        });
        Delay { address, accepting }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    delay: Duration,
) {
    let (send, mut arrive) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let reading = async move {
        loop {
            let mut bytes = Vec::with_capacity(16 << 10);
            match from.read_buf(&mut bytes).await {
                Ok(n) if n > 0 && send.send((Instant::now() + delay, bytes)).await.is_ok() => {}
                _ => return,
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = arrive.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
