//! Images from the network: real HTTP and TLS over loopback, from servers that do as they should and that do not. What runs at the end is the image,
//! whatever the connection did; what is refused leaves nothing.
//!
//! Needs what `keeper.rs` needs, openssl, skopeo, and, to count bytes on flash, e2fsprogs and loop devices.

mod harness;

use harness::server::{self, Asked, Line, Server};
use harness::{Device, Signal, Value, eventually, json, manifest, shell, sleeper, steadily, with};
use std::fs;
use std::io::{self, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wherry::image::Digest;

fn image() -> Vec<u8> {
    fs::read(harness::image::rootfs()).unwrap()
}

/// A container from the network.
fn from(url: &str, digest: Digest, more: Value) -> Value {
    let image = with(json!({"ref": url, "type": "rootfs", "digest": digest.to_string()}), more);
    with(sleeper(), json!({"image": image}))
}

fn device() -> Device {
    Device::with(json!({"limits": {"fetch_timeout_s": 60}}))
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("cannot run {program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Nothing of an image is in the store.
fn is_empty(device: &Device) {
    for dir in ["staging", "layers", "images"] {
        let path = device.dir.join("data").join(dir);
        eventually(&format!("{dir} is empty"), || (fs::read_dir(&path).unwrap().count() == 0).then_some(()));
    }
}

/// A server that answers like this brings the image to run, with so many requests; what they were.
fn check_runs(requests: usize, answer: impl Fn(&[u8], &Asked, &mut dyn Line) -> io::Result<()> + Send + Sync + 'static) -> Vec<Asked> {
    let file = image();
    let digest = Digest::of(&file);
    let server = Server::plain(move |asked, line| answer(&file, asked, line));
    let device = device();
    device.deploy(&manifest("web", from(&server.url("http", "/a/image.tar.gz"), digest, json!({}))));
    assert_eq!(device.exec("web", &["cat", "/etc/group"]).lines().next(), Some("root:x:0:"));
    let asked = server.asked();
    assert_eq!(asked.len(), requests, "{asked:?}");
    asked
}

#[test]
fn a_file_comes_whole_by_length_in_chunks_or_up_to_the_end_of_the_connection() {
    check_runs(1, server::serve);
    check_runs(1, |file, _, line| {
        write!(line, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for chunk in file.chunks(7001) {
            write!(line, "{:x}\r\n", chunk.len())?;
            line.write_all(chunk)?;
            write!(line, "\r\n")?;
        }
        write!(line, "0\r\n\r\n")
    });
    check_runs(1, |file, _, line| {
        write!(line, "HTTP/1.0 200 OK\r\n\r\n")?;
        line.write_all(file)
    });
}

#[test]
fn a_connection_that_breaks_off_goes_on_where_it_was() {
    let asked = check_runs(3, |file, asked, line| match asked.nth {
        0 => server::begin(file, file.len() / 3, "ETag: \"v1\"\r\n", line),
        1 => {
            let from = asked.from.unwrap();
            write!(line, "HTTP/1.1 206 x\r\nContent-Range: bytes {from}-{}/{}\r\nETag: \"v1\"\r\n\r\n", file.len() - 1, file.len())?;
            line.write_all(&file[from..from + file.len() / 3])
        }
        _ => server::serve(file, asked, line),
    });
    let third = image().len() / 3;
    assert_eq!(asked.iter().map(|a| a.from).collect::<Vec<_>>(), [None, Some(third), Some(2 * third)]);
    assert!(asked[1].head.contains("\r\nIf-Range: \"v1\"\r\n"), "{asked:?}");
}

#[test]
fn a_server_without_ranges_sends_all_again_and_what_is_there_is_dropped() {
    check_runs(2, |file, asked, line| server::begin(file, if asked.nth == 0 { file.len() / 2 } else { file.len() }, "", line));
}

#[test]
fn a_connection_that_brings_nothing_is_given_up_for_another() {
    check_runs(2, |file, asked, line| {
        server::begin(file, if asked.nth == 0 { file.len() / 2 } else { file.len() }, "", line)?;
        if asked.nth == 0 {
            let _ = line.read(&mut [0]);
        }
        Ok(())
    });
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    check_runs(3, |file, asked, line| match asked.nth {
        0 => write!(line, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"),
        1 => Ok(()),
        _ => server::serve(file, asked, line),
    });
}

#[test]
fn redirects_are_followed() {
    let asked = check_runs(4, |file, asked, line| match asked.path() {
        "/a/image.tar.gz" => write!(line, "HTTP/1.1 302 x\r\nLocation: b.tar.gz?x=1\r\n\r\n"),
        "/a/b.tar.gz?x=1" => write!(line, "HTTP/1.1 301 x\r\nLocation: /c\r\n\r\n"),
        "/c" => write!(line, "HTTP/1.1 307 x\r\nLocation: http://{}/d\r\n\r\n", host(asked)),
        _ => server::serve(file, asked, line),
    });
    assert_eq!(asked.iter().map(Asked::path).collect::<Vec<_>>(), ["/a/image.tar.gz", "/a/b.tar.gz?x=1", "/c", "/d"]);
}

fn host(asked: &Asked) -> String {
    asked.head.lines().find_map(|l| l.strip_prefix("Host: ")).unwrap().to_owned()
}

type Wrong = fn(&[u8], &Asked, &mut dyn Line) -> io::Result<()>;

#[test]
fn what_is_not_the_wanted_file_fails_with_its_reason_and_leaves_nothing() {
    let file = image();
    let (digest, length) = (Digest::of(&file), file.len());
    let promise = json!({"size": length});
    let rows: [(&str, Wrong, Value, &str, &str); 11] = [
        ("missing", |_, _, line| write!(line, "HTTP/1.1 404 x\r\n\r\n"), json!({}), "fetch", "404 (there is no such file)"),
        ("forbidden", |_, _, line| write!(line, "HTTP/1.1 403 x\r\n\r\n"), json!({}), "fetch", "403"),
        ("other", |f, _, l| server::begin(&[f, b"x"].concat(), f.len() + 1, "", l), json!({}), "digest_mismatch", "expected sha256:"),
        ("longer", |f, _, l| server::begin(&[f, b"x"].concat(), f.len() + 1, "", l), promise.clone(), "fetch", "the manifest promises"),
        ("shorter", |f, _, l| server::begin(&f[1..], f.len() - 1, "", l), promise.clone(), "fetch", "the manifest promises"),
        ("endless", endless, promise, "fetch", "the manifest promises"),
        ("changed", changed, json!({}), "fetch", "changed while it was downloaded"),
        ("in a circle", |_, _, l| write!(l, "HTTP/1.1 302 x\r\nLocation: /again\r\n\r\n"), json!({}), "fetch", "more than 5 times"),
        ("to nowhere", |_, _, l| write!(l, "HTTP/1.1 302 x\r\nLocation: ftp://h/x\r\n\r\n"), json!({}), "fetch", "https:// or http://"),
        ("no HTTP", |_, _, l| l.write_all(b"SSH-2.0-x\r\n"), json!({}), "fetch", "no HTTP"),
        ("a web page", page, json!({}), "digest_mismatch", "expected sha256:"),
    ];
    let device = device();
    for (what, answer, more, reason, words) in rows {
        let file = file.clone();
        let server = Server::plain(move |asked, line| answer(&file, asked, line));
        let container = from(&server.url("http", "/x"), digest, with(more, json!({"unpacked": "64M"})));
        let ack = device.refused(&device.publish(&manifest("web", with(container, json!({"hostname": "x"})))), "failed", reason);
        assert!(ack.to_string().contains(words), "{what}: {ack}");
        is_empty(&device);
    }
}

fn endless(_: &[u8], _: &Asked, line: &mut dyn Line) -> io::Result<()> {
    write!(line, "HTTP/1.1 200 OK\r\n\r\n")?;
    loop {
        line.write_all(&[7; 4096])?;
    }
}

fn changed(file: &[u8], asked: &Asked, line: &mut dyn Line) -> io::Result<()> {
    let (bytes, tag) = if asked.nth == 0 { (file.len() / 2, "one") } else { (file.len(), "two") };
    server::begin(file, bytes, &format!("ETag: \"{tag}\"\r\n"), line)
}

fn page(_: &[u8], _: &Asked, line: &mut dyn Line) -> io::Result<()> {
    write!(line, "HTTP/1.1 200 OK\r\n\r\n<html>Please log in to this hotel's network</html>")
}

#[test]
fn a_server_that_never_answers_fails_in_time_and_is_named() {
    let device = Device::with(json!({"limits": {"fetch_timeout_s": 6}}));
    let cut = Server::plain(|_, line| server::begin(&[0; 9000], 10, "", line));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, words) in [
        (cut.url("http", "/x"), "broke off after 10 bytes"),
        (format!("http://127.0.0.1:{closed}/x"), "Connection refused"),
        ("http://no-such-host.invalid/x".into(), "cannot resolve no-such-host.invalid"),
    ] {
        let ack = device.refused(&device.publish(&manifest("web", from(&url, Digest::of(b"x"), json!({})))), "failed", "fetch");
        assert!(ack.to_string().contains(words) && ack.to_string().contains(&url), "{ack}");
    }
    is_empty(&device);
}

// ---- TLS and proxies ----

/// Authorities and certificates of a test.
struct Authority(std::path::PathBuf);

impl Authority {
    fn new(device: &Device) -> Self {
        let made = Self(device.dir.join("pki"));
        fs::create_dir(&made.0).unwrap();
        for name in ["ca", "other"] {
            made.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} -keyout {name}.key -out {name}.pem"
            ));
        }
        for name in ["server", "client"] {
            made.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -addext subjectAltName=DNS:localhost -keyout {name}.key -out {name}.csr"));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -copy_extensions copy -out {name}.pem"
            ));
        }
        made
    }

    fn openssl(&self, args: &str) {
        let out = Command::new("openssl").args(args.split(' ')).current_dir(&self.0).output().expect("openssl is installed");
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn server(&self, asks_for_one: bool) -> rustls::ServerConfig {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.0.join("ca.pem")).unwrap()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if asks_for_one {
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(self.0.join("server.pem")).unwrap()];
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(self.0.join("server.key")).unwrap()).unwrap()
    }
}

#[test]
fn a_private_authority_and_a_client_certificate_are_used_and_a_wrong_one_is_refused() {
    let file = Arc::new(image());
    let digest = Digest::of(&file);
    let mut device = Device::prepared(json!({"limits": {"fetch_timeout_s": 8}}));
    let pki = Authority::new(&device);
    let serve = |file: &Arc<Vec<u8>>| {
        let file = file.clone();
        move |asked: &Asked, line: &mut dyn Line| server::serve(&file, asked, line)
    };
    let (open, closed) = (Server::tls(pki.server(false), serve(&file)), Server::tls(pki.server(true), serve(&file)));
    let with_client = json!({"ca": pki.path("ca.pem"), "certificate": pki.path("client.pem"), "key": pki.path("client.key")});
    device.broker.up();
    for (fetch, server, error) in [
        (json!({"ca": pki.path("other.pem")}), &open, Some("not signed by the authority")),
        (json!({"ca": pki.path("ca.pem")}), &closed, Some("client certificate")),
        (json!({"ca": pki.path("ca.pem")}), &open, None),
        (with_client, &closed, None),
    ] {
        device.settings["fetch"] = fetch.clone();
        device.start();
        device.online();
        let sha = device.publish(&manifest(
            "web",
            with(from(&server.url("https", "/x"), digest, json!({})), json!({"env": {"FETCH": fetch.to_string()}})),
        ));
        match error {
            None => {
                device.ack(&sha, "running");
                device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "remove": true})), "removed");
            }
            Some(words) => {
                let ack = device.refused(&sha, "failed", "fetch");
                assert!(ack.to_string().contains(words) && !ack.to_string().contains("broker"), "{ack}");
            }
        }
        is_empty(&device);
        device.end(Signal::SIGINT);
    }
}

#[test]
fn what_was_asked_for_encrypted_does_not_come_unencrypted() {
    let mut device = Device::prepared(json!({}));
    let pki = Authority::new(&device);
    let plain = Server::plain(|asked, line| server::serve(&image(), asked, line));
    let to = plain.url("http", "/x");
    let server = Server::tls(pki.server(false), move |_, line| write!(line, "HTTP/1.1 302 x\r\nLocation: {to}\r\n\r\n"));
    device.settings["fetch"] = json!({"ca": pki.path("ca.pem")});
    device.broker.up();
    device.start();
    device.online();
    let sha = device.publish(&manifest("web", from(&server.url("https", "/x"), Digest::of(&image()), json!({}))));
    let ack = device.refused(&sha, "failed", "fetch");
    assert!(ack.to_string().contains("not encrypted"), "{ack}");
    assert!(plain.asked().is_empty());
}

/// A proxy that asks for a login; plain requests it answers itself, tunnels lead to `inner`.
fn proxy(file: Arc<Vec<u8>>, inner: u16) -> Server {
    Server::plain(move |asked, line| {
        if !asked.head.contains("\r\nProxy-Authorization: Basic cm91dGVyOnNlY3JldA==\r\n") {
            return write!(line, "HTTP/1.1 407 x\r\n\r\n");
        }
        if !asked.line().starts_with("CONNECT ") {
            return server::serve(&file, asked, line);
        }
        write!(line, "HTTP/1.1 200 Connection established\r\n\r\n")?;
        let mut to = std::net::TcpStream::connect(("127.0.0.1", inner))?;
        to.set_read_timeout(Some(Duration::from_millis(20)))?;
        relay(line, &mut to)
    })
}

/// Both ways through one thread: the client's side has no second handle, so each side is asked in turn.
fn relay(line: &mut dyn Line, to: &mut std::net::TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = line.read(&mut buffer)?;
        to.write_all(&buffer[..n])?;
        // The server speaks until it has nothing to say for a moment, then it is the client's turn.
        loop {
            match io::Read::read(to, &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => line.write_all(&buffer[..n])?,
                Err(_) => break,
            }
        }
    }
}

#[test]
fn everything_goes_through_a_proxy_where_one_is_set() {
    let file = Arc::new(image());
    let mut device = Device::prepared(json!({"limits": {"fetch_timeout_s": 30}}));
    let pki = Authority::new(&device);
    let served = file.clone();
    let inner = Server::tls(pki.server(false), move |asked, line| server::serve(&served, asked, line));
    let proxy = proxy(file.clone(), inner.port);
    let settings = |word: &str| {
        let proxy = json!({"host": "127.0.0.1", "port": proxy.port, "username": "router", "password": word});
        json!({"ca": pki.path("ca.pem"), "proxy": proxy})
    };
    device.broker.up();
    for (word, url, good) in [
        ("wrong", "http://images.invalid/x".to_owned(), false),
        ("wrong", "https://images.invalid/x".to_owned(), false),
        ("secret", "http://images.invalid/x".to_owned(), true),
        ("secret", inner.url("https", "/x"), true),
    ] {
        device.settings["fetch"] = settings(word);
        device.start();
        device.online();
        let sha = device.publish(&manifest("web", with(from(&url, Digest::of(&file), json!({})), json!({"env": {"W": word, "U": url}}))));
        if good {
            device.ack(&sha, "running");
            device.ack(&device.publish(&json!({"wherry": 1, "app": "web", "remove": true})), "removed");
        } else {
            let ack = device.refused(&sha, "failed", "fetch");
            assert!(ack.to_string().contains("407"), "{ack}");
        }
        device.end(Signal::SIGINT);
    }
    assert!(proxy.asked().iter().any(|a| a.line() == "GET http://images.invalid/x HTTP/1.1"));
    assert!(proxy.asked().iter().any(|a| a.line() == format!("CONNECT localhost:{} HTTP/1.1", inner.port)));
}

// ---- beside everything else ----

/// A server that sends the file some times, and then a byte now and then, until the client is gone; how long that took.
fn slow(file: &[u8]) -> (Server, Arc<Mutex<Vec<Duration>>>) {
    // Several megabytes, so that progress is told.
    let (gone, much) = (Arc::new(Mutex::new(Vec::new())), file.repeat(4));
    let (log, length) = (gone.clone(), file.len() * 100);
    let server = Server::plain(move |_, line| {
        write!(line, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
        line.write_all(&much)?;
        log.lock().unwrap().push(server::trickle(line));
        Ok(())
    });
    (server, gone)
}

#[test]
fn what_holds_a_download_up_is_told_and_shown() {
    let file = image();
    let digest = Digest::of(&file);
    let (slow, _) = slow(&file);
    let busy = Server::plain(|_, line| write!(line, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"));
    let device = device();
    let sha = device.publish(&manifest("busy", from(&busy.url("http", "/x"), digest, json!({}))));
    let told = eventually("the server's answer is told", || device.acks(&sha).into_iter().find(|a| a["detail"]["message"].is_string()));
    assert!(told["state"] == "fetching" && told["reason"].is_null(), "{told}");
    let waits = |app: &str| device.json(&["info", app])["waits"].as_str().unwrap_or_default().to_owned();
    for text in [told["detail"]["message"].as_str().unwrap(), &waits("busy")] {
        assert!(text.contains("503") && text.contains(&busy.url("http", "/x")) && text.contains("tried again"), "{text}");
    }
    // Two downloads at a time: this one begins, the next has to wait.
    for app in ["slow", "next"] {
        let sha = device.publish(&manifest(app, from(&slow.url("http", "/slow"), Digest::of(app.as_bytes()), json!({}))));
        device.ack(&sha, "accepted");
    }
    eventually("the second download has begun", || (slow.asked().len() == 1).then_some(()));
    eventually("the third one waits", || waits("next").contains("other images").then_some(()));
    assert_eq!(waits("slow"), "");
}

#[test]
fn a_person_runs_an_image_from_the_network_without_any_broker() {
    let file = image();
    let digest = Digest::of(&file).to_string();
    let server = Server::plain(move |asked, line| match asked.nth {
        0 => write!(line, "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"),
        _ => server::serve(&file, asked, line),
    });
    let mut device = Device::prepared(json!({"brokers": []}));
    device.start();
    let url = server.url("http", "/image.tar.gz");
    let ran = device.wherry(&["run", "--rm", "--digest", &digest, "--type", "rootfs", &url, "/bin/echo", "hello"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello\n"), "{}", ran.err);
    assert!(ran.err.contains("503") && ran.err.contains("tried again"), "{}", ran.err);
    let (code, error) = device.fails(&["run", &url]);
    assert!(code == 125 && error.contains("--digest"), "{code} {error}");
}

// ---- archives ----

#[test]
fn archives_of_images_run_as_their_configuration_says_although_the_connection_broke() {
    let device = device();
    for kind in ["oci-archive", "docker-archive"] {
        let path = device.dir.join(kind);
        let (from_layout, to) = (harness::image::layout("config"), format!("{kind}:{}:app:v1", path.display()));
        run("skopeo", &["--insecure-policy", "copy", "-q", &from_layout, &to]);
        let file = fs::read(&path).unwrap();
        let digest = Digest::of(&file).to_string();
        let server = Server::plain(move |asked, line| match asked.nth {
            0 => server::begin(&file, file.len() / 2, "ETag: \"v1\"\r\n", line),
            _ => server::serve(&file, asked, line),
        });
        let image = json!({"ref": server.url("http", "/image.tar"), "type": kind, "digest": digest});
        for app in [kind, "again"] {
            device.deploy(&manifest(app, json!({"image": image})));
            assert!(device.says(app, "ready").contains("args=from-image\nfrom_image=yes"), "{kind}");
        }
        assert_eq!(server.asked().len(), 2, "what is there is not downloaded again");
        for app in [kind, "again"] {
            device.ack(&device.publish(&json!({"wherry": 1, "app": app, "remove": true})), "removed");
        }
        is_empty(&device);
    }
}

// ---- beside everything else: nobody waits ----

#[test]
fn a_slow_download_holds_nobody_up_and_ends_when_nobody_wants_it_any_more() {
    let file = image();
    let (slow, gone) = slow(&file);
    let (served, digest) = (file.clone(), Digest::of(&file));
    let quick = Server::plain(move |asked, line| server::serve(&served, asked, line));
    let device = device();
    let sha = device.publish(&manifest("slow", from(&slow.url("http", "/slow"), Digest::of(b"never"), json!({}))));
    device.ack(&sha, "fetching");
    eventually("the download has begun", || (slow.asked().len() == 1).then_some(()));
    device.deploy(&manifest("local", sleeper()));
    device.deploy(&manifest("quick", from(&quick.url("http", "/quick"), digest, json!({}))));
    let progress = eventually("progress is told", || device.acks(&sha).into_iter().find(|a| a["detail"]["total"].is_u64()));
    assert_eq!(progress["detail"]["total"], file.len() * 100, "{progress}");
    assert_eq!(device.app("slow").unwrap()["state"], "fetching");
    device.ack(&device.publish(&json!({"wherry": 1, "app": "slow", "remove": true})), "removed");
    eventually("the connection is closed", || (gone.lock().unwrap().len() == 1).then_some(()));
    let staging = device.dir.join("data/staging");
    eventually("nothing is being unpacked", || (fs::read_dir(&staging).unwrap().count() == 0).then_some(()));
    steadily(Duration::from_millis(300), "the others run", || device.pid("local").is_some() && device.pid("quick").is_some());
}

#[test]
fn a_download_whose_agent_or_keeper_is_killed_is_begun_anew() {
    let file = image();
    let digest = Digest::of(&file);
    let server = Server::plain(move |asked, line| {
        if asked.nth < 2 {
            server::begin(&file, file.len() / 2, "", line)?;
            server::trickle(line);
            return Ok(());
        }
        server::serve(&file, asked, line)
    });
    let mut device = device();
    let sha = device.publish(&manifest("web", from(&server.url("http", "/x"), digest, json!({}))));
    eventually("the first download has begun", || (server.asked().len() == 1).then_some(()));
    harness::kill(device.agent(), Signal::SIGKILL);
    eventually("the second download has begun", || (server.asked().len() == 2).then_some(()));
    device.end(Signal::SIGKILL);
    device.start();
    device.ack(&sha, "running");
    assert_eq!(server.asked().len(), 3);
    assert!(server.asked().iter().all(|a| a.from.is_none()), "what a dead agent had written is nobody's to go on from");
    device.running("web");
}

#[test]
fn a_promised_unpacked_size_may_be_exact_although_the_file_is_larger() {
    let mut archive = tar::Builder::new(Vec::new());
    let content = vec![7; 3000];
    for n in 0..2000 {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("f{n}"), &content[..]).unwrap();
    }
    let file = archive.into_inner().unwrap();
    let (digest, unpacked) = (Digest::of(&file), 2000 * content.len());
    assert!(file.len() > unpacked);
    let server = Server::plain(move |asked, line| server::serve(&file, asked, line));
    let device = device();
    // It has no program to run: what counts is that it gets so far.
    for (unpacked, reason) in [(unpacked - 1, "no_space"), (unpacked, "exec")] {
        let image = json!({"ref": server.url("http", "/x"), "type": "rootfs", "digest": digest.to_string(), "unpacked": unpacked});
        device.refused(&device.publish(&manifest("web", with(sleeper(), json!({"image": image})))), "failed", reason);
    }
}

#[test]
fn an_image_that_is_there_is_not_downloaded_again() {
    let file = image();
    let digest = Digest::of(&file);
    let server = Server::plain(move |asked, line| server::serve(&file, asked, line));
    let device = device();
    device.deploy(&manifest("web", from(&server.url("http", "/x"), digest, json!({}))));
    device.deploy(&manifest("two", from(&server.url("http", "/y"), digest, json!({}))));
    let local = with(shell("exec sleep 9999"), json!({"image": {"ref": format!("rootfs:{}", harness::image::rootfs().display())}}));
    device.deploy(&manifest("local", local));
    assert_eq!(server.asked().len(), 1);
    assert_eq!(fs::read_dir(device.dir.join("data/layers")).unwrap().count(), 1);
}

/// Sectors written so far to the loop device below a directory.
fn written(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let dev = fs::metadata(dir).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    stat.split_ascii_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
}

#[test]
fn a_download_writes_little_more_to_flash_than_the_unpacked_image() {
    let mut device = Device::prepared(json!({}));
    let path = |name: &str| device.dir.join(name).to_str().unwrap().to_owned();
    let (data, disk, tree, archive) = (path("data"), path("disk"), path("tree"), path("image.tar.gz"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&tree).unwrap();
    run(
        "sh",
        &[
            "-c",
            &format!(
                "cp -a /bin/busybox {tree}/ 2>/dev/null || cp -a /usr/bin/busybox {tree}/; head -c 24000000 /dev/urandom >{tree}/noise; tar -C {tree} -czf {archive} .; truncate -s 96M {disk}; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {disk}; mount -o loop {disk} {data}"
            ),
        ],
    );
    let file = fs::read(&archive).unwrap();
    let digest = Digest::of(&file);
    let server = Server::plain(move |asked, line| server::serve(&file, asked, line));
    device.broker.up();
    device.start();
    device.online();
    run("sync", &["-f", &data]);
    let before = written(data.as_ref());
    let container = with(from(&server.url("http", "/x"), digest, json!({})), json!({"command": ["/busybox", "sleep", "100000"]}));
    device.deploy(&manifest("web", container));
    run("sync", &["-f", &data]);
    let written = written(data.as_ref()) - before;
    device.end(Signal::SIGINT);
    run("umount", &[&data]);
    assert!((24_000_000..=27_500_000).contains(&written), "{written} bytes were written for about 25 million");
}
