//! Downloads: from a server into a pipe that keeper handed over. The bytes are not looked at: `hash` says what they are, `unpack` what they mean.
//!
//! Each is a task beside the MQTT session. A connection that breaks off is followed by another that asks for the rest (`Range`), and what a
//! server sends again nevertheless is dropped: the pipe sees every byte once.

use super::dial;
use super::http::{self, Body, Head, Resume};
use super::session::random;
use super::tls::{self, Files};
use super::wire::Stream;
use crate::image::Url;
use crate::ipc::{Conn, DownloadJob, FetchSettings, FromAgent, Proxy, Transfer};
use crate::sys::{fd, reactor};
use bytes::BytesMut;
use nix::errno::Errno;
use nix::unistd::write;
use rumqttc::tokio_rustls::rustls::ClientConfig;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Name, TCP, proxy, TLS and the answer's head together.
const CONNECTING: Duration = Duration::from_secs(30);
/// A connection that brings nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(20);
/// Attempts in a row that brought nothing.
const MAX_ATTEMPTS: u32 = 8;
/// Longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Redirects that are followed for one attempt.
const MAX_REDIRECTS: usize = 5;
/// Bytes read in one go.
const CHUNK: usize = 16 * 1024;
/// How long to wait before keeper is told again, when its socket is full.
const KEEPER_BUSY: Duration = Duration::from_millis(50);

/// What all downloads have in common.
struct Means {
    keeper: Conn,
    files: Files,
    proxy: Option<Proxy>,
}

/// The downloads at work.
pub struct Downloads {
    means: Arc<Means>,
    running: Vec<(u64, AbortHandle)>,
}

impl Downloads {
    /// `keeper` is a second descriptor of the socket to keeper: every message is one packet, so nobody's are mixed.
    pub fn new(keeper: Conn, settings: FetchSettings, files: Files) -> Self {
        let means = Means { keeper, files, proxy: settings.proxy };
        Self { means: Arc::new(means), running: Vec::new() }
    }

    /// Starts one.
    pub fn start(&mut self, job: DownloadJob, pipe: OwnedFd) {
        self.running.retain(|(_, task)| !task.is_finished());
        let (id, means) = (job.id, self.means.clone());
        let task = tokio::spawn(async move {
            let transfer = match run(&means, &job, pipe).await {
                Ok(bytes) => Transfer::Done(bytes),
                Err(sentence) => Transfer::Failed(sentence),
            };
            means.tell(job.id, transfer).await;
        });
        self.running.push((id, task.abort_handle()));
    }

    /// Ends one, without a word.
    pub fn abandon(&mut self, id: u64) {
        for (_, task) in self.running.extract_if(.., |(n, _)| *n == id) {
            task.abort();
        }
    }
}

impl Means {
    /// Made anew each time: a system's bundle of authorities takes some hundred kilobytes of memory, and downloads are rare.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let again = |file: &OwnedFd| {
            nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekSet)?;
            file.try_clone()
        };
        let copy = || -> io::Result<Files> {
            let ca = self.files.ca.as_ref().map(again).transpose()?;
            let client = self.files.client.as_ref().map(|(c, k)| io::Result::Ok((again(c)?, again(k)?))).transpose()?;
            Ok(Files { ca, client })
        };
        tls::config(copy().map_err(|e| format!("TLS: cannot read certificates: {}", dial::plain(&e)))?).map_err(server)
    }

    async fn tell(&self, id: u64, transfer: Transfer) {
        let message = FromAgent::Download { id, transfer };
        while self.keeper.send(&message).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            sleep(KEEPER_BUSY).await;
        }
    }
}

/// Why an attempt ended without the whole file.
enum Fault {
    /// Another may help.
    Again(String),
    /// None will.
    Final(String),
}

/// How far a download has come.
struct Progress {
    resume: Resume,
    total: Option<u64>,
    pipe: AsyncFd<OwnedFd>,
}

async fn run(means: &Means, job: &DownloadJob, pipe: OwnedFd) -> Result<u64, String> {
    let watched = fd::set_nonblocking(pipe.as_fd()).and_then(|()| reactor::watch(pipe));
    let pipe = watched.map_err(|e| format!("cannot download: {}", dial::plain(&e)))?;
    let mut progress = Progress { resume: Resume { from: 0, validator: None }, total: None, pipe };
    let deadline = Instant::now() + Duration::from_secs(job.timeout_s.into());
    let (mut attempts, mut last) = (0, "no answer".to_owned());
    let about = |why: &str| format!("cannot download {}: {why}", job.wish.url);
    loop {
        let before = progress.resume.from;
        match timeout_at(deadline, attempt(means, job, &mut progress)).await {
            Ok(Ok(())) => return Ok(progress.resume.from),
            Ok(Err(Fault::Final(why))) => return Err(about(&why)),
            Ok(Err(Fault::Again(why))) => last = why,
            Err(_) => return Err(about(&format!("not complete within {} s (last: {last})", job.timeout_s))),
        }
        attempts = if progress.resume.from > before { 1 } else { attempts + 1 };
        if attempts >= MAX_ATTEMPTS {
            return Err(about(&format!("{last} ({attempts} attempts)")));
        }
        means.tell(job.id, Transfer::Again(about(&last))).await;
        if timeout_at(deadline, sleep(pause(attempts, random()))).await.is_err() {
            return Err(about(&format!("not complete within {} s (last: {last})", job.timeout_s)));
        }
    }
}

/// Doubles with each attempt, and differs from device to device: a server that was away must not meet all of them at once.
fn pause(attempts: u32, random: u32) -> Duration {
    let longest = Duration::from_millis(500).saturating_mul(1 << attempts.min(8)).min(MAX_WAIT);
    longest / 2 + longest.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// One connection, or several one after the other where the server sends us on.
async fn attempt(means: &Means, job: &DownloadJob, progress: &mut Progress) -> Result<(), Fault> {
    let mut url = job.wish.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let asked = timeout(CONNECTING, ask(means, &url, &progress.resume)).await;
        let (stream, head, arrived) = asked.map_err(|_| Fault::Again(format!("no answer within {} s", CONNECTING.as_secs())))??;
        match head.status {
            301 | 302 | 303 | 307 | 308 => url = moved(&url, &head)?,
            200 | 206 => return receive(means, job, progress, stream, head, arrived).await,
            416 if progress.resume.from > 0 && head.range == Some((None, Some(progress.resume.from))) => return Ok(()),
            status => return Err(refused(status)),
        }
    }
    Err(Fault::Final(format!("the server sends us on more than {MAX_REDIRECTS} times")))
}

fn moved(from: &Url, head: &Head) -> Result<Url, Fault> {
    let location = head.location.as_deref().ok_or_else(|| Fault::Final("the server sends us on, but not where to".into()))?;
    let to = from.join(location).map_err(|e| Fault::Final(format!("the server sends us on to {location:?}, which {e}")))?;
    if from.tls && !to.tls {
        return Err(Fault::Final(format!("the server sends us on to {to}, which is not encrypted")));
    }
    Ok(to)
}

fn refused(status: u16) -> Fault {
    let words = match status {
        401 | 407 => " (it wants a login)",
        403 => " (forbidden)",
        404 | 410 => " (there is no such file)",
        429 => " (too many requests)",
        _ => "",
    };
    let sentence = format!("the server answers {status}{words}");
    match status {
        408 | 425 | 429 | 500..=599 => Fault::Again(sentence),
        _ => Fault::Final(sentence),
    }
}

/// Connects, asks, and reads the head; what arrived behind it comes along.
async fn ask(means: &Means, url: &Url, resume: &Resume) -> Result<(Box<dyn Stream>, Head, BytesMut), Fault> {
    let authorization = means.proxy.as_ref().and_then(|p| p.credentials.as_ref()).map(|(user, password)| http::basic(user, password));
    let authorization = authorization.as_deref();
    let config = if url.tls { Some(means.tls().map_err(Fault::Final)?) } else { None };
    let tcp = match &means.proxy {
        None => dial::tcp(&url.host, url.port).await.map_err(Fault::Again)?.0,
        Some(proxy) => {
            let tcp = dial::tcp(&proxy.host, proxy.port).await.map_err(|e| Fault::Again(format!("proxy: {e}")))?.0;
            if url.tls { tunnel(tcp, url, authorization).await? } else { tcp }
        }
    };
    let mut stream = dial::secure(tcp, &url.host, config).await.map_err(|e| Fault::Again(server(e)))?;
    let proxied = means.proxy.is_some() && !url.tls;
    stream.write_all(http::get(url, proxied, resume, authorization).as_bytes()).await.map_err(|e| broken(&e))?;
    stream.flush().await.map_err(|e| broken(&e))?;
    let mut arrived = BytesMut::new();
    let head = head(&mut stream, &mut arrived, &url.host).await?;
    Ok((stream, head, arrived))
}

async fn tunnel(mut tcp: TcpStream, url: &Url, authorization: Option<&str>) -> Result<TcpStream, Fault> {
    tcp.write_all(http::connect(url, authorization).as_bytes()).await.map_err(|e| broken(&e))?;
    let mut arrived = BytesMut::new();
    let head = head(&mut tcp, &mut arrived, &url.host).await?;
    match head.status {
        200..=299 if arrived.is_empty() => Ok(tcp),
        200..=299 => Err(Fault::Final("the proxy speaks before the server does".into())),
        502..=504 => Err(Fault::Again(format!("the proxy answers {}", head.status))),
        407 => Err(Fault::Final("the proxy answers 407 (it wants a login)".into())),
        status => Err(Fault::Final(format!("the proxy answers {status}"))),
    }
}

async fn head(stream: &mut (impl Stream + ?Sized), arrived: &mut BytesMut, host: &str) -> Result<Head, Fault> {
    loop {
        if let Some((head, length)) = http::head(arrived).map_err(Fault::Final)? {
            let _ = arrived.split_to(length);
            return Ok(head);
        }
        match stream.read_buf(arrived).await {
            Ok(0) => return Err(Fault::Again("the server hung up in place of an answer".into())),
            Ok(_) => {}
            Err(e) => return Err(Fault::Again(tls::words(&e, host).map_or_else(|| dial::plain(&e), server))),
        }
    }
}

/// Takes the body, drops what the pipe has had already, and writes the rest there.
async fn receive(
    means: &Means,
    job: &DownloadJob,
    progress: &mut Progress,
    mut stream: Box<dyn Stream>,
    head: Head,
    mut arrived: BytesMut,
) -> Result<(), Fault> {
    let plan = plan(&head, &progress.resume, progress.total, job.wish.size, job.wish.max).map_err(Fault::Final)?;
    progress.resume.validator = progress.resume.validator.take().or(head.validator.clone());
    if let Some(total) = plan.total.filter(|_| progress.total.is_none()) {
        progress.total = Some(total);
        means.tell(job.id, Transfer::Total(total)).await;
    }
    let (mut skip, mut body) = (plan.skip, Body::of(&head));
    loop {
        while let Some(mut content) = body.take(&mut arrived).map_err(Fault::Again)? {
            let dropped = skip.min(content.len() as u64);
            skip -= dropped;
            content = content.slice(dropped as usize..);
            if progress.resume.from + content.len() as u64 > job.wish.size.unwrap_or(job.wish.max) {
                return Err(Fault::Final(too_long(job.wish.size, job.wish.max)));
            }
            pour(progress, &content).await?;
        }
        if body == Body::Complete {
            break;
        }
        arrived.reserve(CHUNK);
        match timeout(STALLED, stream.read_buf(&mut arrived)).await {
            Err(_) => return Err(Fault::Again(format!("nothing came for {} s", STALLED.as_secs()))),
            Ok(Err(e)) => return Err(broken(&e)),
            Ok(Ok(0)) if body == Body::UntilClose => break,
            Ok(Ok(0)) => return Err(Fault::Again(format!("the connection broke off after {} bytes", progress.resume.from))),
            Ok(Ok(_)) => {}
        }
    }
    match progress.total.or(job.wish.size) {
        Some(total) if progress.resume.from != total => Err(Fault::Again(format!("only {} of {total} bytes came", progress.resume.from))),
        _ => Ok(()),
    }
}

/// Into the pipe, waiting for whoever reads it.
async fn pour(progress: &mut Progress, mut content: &[u8]) -> Result<(), Fault> {
    while !content.is_empty() {
        let mut ready = progress.pipe.writable().await.map_err(|e| Fault::Final(dial::plain(&e)))?;
        match ready.try_io(|pipe| write(pipe.get_ref(), content).map_err(io::Error::from)) {
            Err(_) => {}
            Ok(Ok(n)) => {
                content = &content[n..];
                progress.resume.from += n as u64;
            }
            Ok(Err(e)) if e.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Ok(Err(e)) => return Err(Fault::Final(format!("nobody takes the bytes any more: {}", dial::plain(&e)))),
        }
    }
    Ok(())
}

/// What to do with a body.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Bytes at its front that the pipe has had.
    skip: u64,
    /// Length of the whole file, if it is told.
    total: Option<u64>,
}

/// Is this the rest of what we have? A pure decision: `known` is the length as told before, `promised` as the manifest has it.
fn plan(head: &Head, resume: &Resume, known: Option<u64>, promised: Option<u64>, max: u64) -> Result<Plan, String> {
    let changed = || "the file on the server changed while it was downloaded".to_owned();
    let plan = match (head.status, head.range) {
        (206, Some((Some(first), total))) if first <= resume.from => {
            Plan { skip: resume.from - first, total: total.or(head.length.map(|l| first + l)) }
        }
        (206, _) => return Err("the server sends another part of the file than the one asked for".into()),
        // The whole file: either the server knows no ranges, or it has another version by now.
        _ => Plan { skip: resume.from, total: head.length.filter(|_| !head.chunked) },
    };
    if resume.from > 0 && (differs(&resume.validator, &head.validator) || differs(&known, &plan.total)) {
        return Err(changed());
    }
    match (plan.total, promised) {
        (Some(total), Some(promised)) if total != promised => Err(format!("the file has {total} bytes, the manifest promises {promised}")),
        (Some(total), None) if total > max => Err(too_long(None, max)),
        _ => Ok(plan),
    }
}

fn differs<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

fn too_long(promised: Option<u64>, max: u64) -> String {
    match promised {
        Some(promised) => format!("the file has more than the {promised} bytes that the manifest promises"),
        None => format!("the file has more than {max} bytes, the most that an image may have here"),
    }
}

fn broken(e: &io::Error) -> Fault {
    Fault::Again(format!("the connection broke off: {}", dial::plain(e)))
}

/// The sentences on TLS and connections speak of brokers, which is what most of them are about.
fn server(sentence: String) -> String {
    sentence.replace("the broker", "the server").replace("this broker", "downloads")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(length: Option<u64>, validator: Option<&str>) -> Head {
        Head { status: 200, length, validator: validator.map(str::to_owned), ..Head::default() }
    }

    fn part(first: Option<u64>, total: Option<u64>) -> Head {
        Head { status: 206, length: Some(3), range: Some((first, total)), ..Head::default() }
    }

    #[test]
    fn the_rest_of_a_file_is_taken_only_if_it_is_the_rest_of_the_same_file() {
        let start = Resume { from: 0, validator: None };
        let later = Resume { from: 7, validator: Some("\"v\"".into()) };
        type Row<'a> = (Head, &'a Resume, Option<u64>, Result<Plan, &'static str>);
        let rows: [Row<'_>; 11] = [
            (whole(Some(10), None), &start, None, Ok(Plan { skip: 0, total: Some(10) })),
            (whole(None, None), &start, None, Ok(Plan { skip: 0, total: None })),
            (whole(Some(10), Some("\"v\"")), &later, Some(10), Ok(Plan { skip: 7, total: Some(10) })),
            (whole(Some(10), None), &later, Some(10), Ok(Plan { skip: 7, total: Some(10) })),
            (part(Some(7), Some(10)), &later, Some(10), Ok(Plan { skip: 0, total: Some(10) })),
            (part(Some(5), Some(10)), &later, Some(10), Ok(Plan { skip: 2, total: Some(10) })),
            (part(Some(7), None), &later, None, Ok(Plan { skip: 0, total: Some(10) })),
            (whole(Some(10), Some("\"w\"")), &later, Some(10), Err("changed")),
            (part(Some(7), Some(11)), &later, Some(10), Err("changed")),
            (part(Some(8), Some(10)), &later, Some(10), Err("another part")),
            (part(None, Some(10)), &later, Some(10), Err("another part")),
        ];
        for (head, resume, known, wanted) in rows {
            let found = plan(&head, resume, known, None, 1000);
            match wanted {
                Ok(wanted) => assert_eq!(found, Ok(wanted), "{head:?}"),
                Err(words) => assert!(found.as_ref().is_err_and(|e| e.contains(words)), "{head:?}: {found:?}"),
            }
        }
        assert!(plan(&whole(Some(11), None), &start, None, Some(10), 1000).unwrap_err().contains("promises 10"));
        assert!(plan(&whole(Some(11), None), &start, None, None, 10).unwrap_err().contains("more than 10 bytes"));
    }

    #[test]
    fn attempts_come_ever_more_rarely_and_never_all_at_once() {
        for attempts in 1..40 {
            let (soon, late) = (pause(attempts, 0), pause(attempts, u32::MAX));
            assert!(soon < late && late <= MAX_WAIT && soon >= Duration::from_millis(500), "{attempts}: {soon:?} {late:?}");
        }
    }
}
