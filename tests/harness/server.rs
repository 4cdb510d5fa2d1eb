//! An HTTP server for a test, which does to each request what the test says, wrong things included.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wherry::sys::time::boottime;

/// A byte stream to a client, encrypted or not.
pub trait Line: Read + Write + Send {}
impl<T: Read + Write + Send> Line for T {}

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The whole head.
    pub head: String,
    /// Which request of all this is, from 0.
    pub nth: usize,
    /// First byte of `Range`.
    pub from: Option<usize>,
}

impl Asked {
    /// Method and target.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }
}

type Answer = dyn Fn(&Asked, &mut dyn Line) -> io::Result<()> + Send + Sync;

/// A running server; it ends with the test.
pub struct Server {
    /// On 127.0.0.1.
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
}

impl Server {
    /// Without encryption.
    pub fn plain(answer: impl Fn(&Asked, &mut dyn Line) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start(answer, |stream| Some(Box::new(stream)))
    }

    /// With TLS.
    pub fn tls(config: rustls::ServerConfig, answer: impl Fn(&Asked, &mut dyn Line) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let config = Arc::new(config);
        Self::start(answer, move |stream| {
            let session = rustls::ServerConnection::new(config.clone()).ok()?;
            Some(Box::new(rustls::StreamOwned::new(session, stream)))
        })
    }

    fn start(
        answer: impl Fn(&Asked, &mut dyn Line) -> io::Result<()> + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Option<Box<dyn Line>> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, end, answer): (_, _, Arc<Answer>) = (asked.clone(), over.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
                let Some(mut line) = wrap(stream) else { continue };
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Ok(head) = read_head(&mut *line) else { return };
                    let from = head.lines().find_map(|l| l.strip_prefix("Range: bytes=")?.strip_suffix('-')?.parse().ok());
                    let mut all = log.lock().unwrap();
                    let one = Asked { head, nth: all.len(), from };
                    all.push(one.clone());
                    drop(all);
                    let _ = answer(&one, &mut *line);
                    let _ = line.flush();
                });
            }
        });
        Self { port, asked, over }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Address of a file here.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Up to the empty line, byte by byte: what follows may be another protocol's.
pub fn read_head(line: &mut dyn Line) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16 * 1024 {
        line.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers as a good server does, ranges included.
pub fn serve(file: &[u8], asked: &Asked, line: &mut dyn Line) -> io::Result<()> {
    let from = asked.from.unwrap_or(0).min(file.len());
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let range = if from > 0 { format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len()) } else { String::new() };
    write!(line, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"v1\"\r\n{range}\r\n", file.len() - from)?;
    line.write_all(&file[from..])
}

/// The head of a whole file, and so many of its bytes.
pub fn begin(file: &[u8], bytes: usize, fields: &str, line: &mut dyn Line) -> io::Result<()> {
    write!(line, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n", file.len())?;
    line.write_all(&file[..bytes])?;
    line.flush()
}

/// Writes a byte now and then until the client hangs up; tells how long that took.
pub fn trickle(line: &mut dyn Line) -> Duration {
    let since = boottime();
    while line.write_all(b"x").and_then(|()| line.flush()).is_ok() && boottime() - since < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
    }
    boottime() - since
}
