//! mosquitto on loopback, and what it has seen.

use super::eventually;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// A child process, killed at the end.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One message that went through the broker.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload; null if that is not JSON.
    pub payload: Value,
}

/// mosquitto without persistence, and a listener that sees every message.
pub struct Broker {
    dir: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    credentials: Option<(String, String)>,
    process: Option<Guard>,
    listener: Option<Guard>,
    seen: Arc<Mutex<Vec<Message>>>,
}

/// A port that was free a moment ago, below those that the kernel gives to outgoing connections (ip_local_port_range starts at 32768).
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 500) as u16 * 40;
    let mut candidates = (0..1000).map(|_| 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

impl Broker {
    /// Not started yet. With credentials, nobody else is let in.
    pub fn new(dir: &Path, credentials: Option<(&str, &str)>) -> Self {
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let broker = Self { dir: dir.to_owned(), port: free_port(), credentials, process: None, listener: None, seen: Arc::default() };
        let access = match &broker.credentials {
            None => "allow_anonymous true".into(),
            Some((user, password)) => {
                let file = dir.join("passwords");
                let made = Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&file).args([user, password]).status().unwrap();
                assert!(made.success());
                format!("allow_anonymous false\npassword_file {}", file.display())
            }
        };
        let conf = format!("user root\nlistener {} 127.0.0.1\npersistence false\n{access}\n", broker.port);
        fs::write(dir.join("mosquitto.conf"), conf).unwrap();
        broker
    }

    /// Adds a line to mosquitto's settings, for its next start.
    pub fn configure(&self, line: &str) {
        let mut file = File::options().append(true).open(self.dir.join("mosquitto.conf")).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    /// Starts mosquitto and listens to all of it.
    pub fn up(&mut self) {
        let log = File::create(self.dir.join("mosquitto.log")).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.dir.join("mosquitto.conf")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Debian puts it into sbin.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        self.process = Some(Guard(command.spawn().expect("mosquitto is installed")));
        eventually("mosquitto listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
        self.listen();
    }

    /// mosquitto's process id.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("mosquitto runs").0.id() as i32
    }

    /// Ends it; retained messages are gone.
    pub fn down(&mut self) {
        (self.process, self.listener) = (None, None);
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1"]);
        if let Some((user, password)) = &self.credentials {
            command.args(["-u", user, "-P", password]);
        }
        command
    }

    fn listen(&mut self) {
        let mut command = self.client("mosquitto_sub");
        let mut child = command.args(["-t", "#", "-F", "%t %p"]).stdout(Stdio::piped()).spawn().expect("mosquitto_sub is installed");
        let output = BufReader::new(child.stdout.take().unwrap());
        let seen = self.seen.clone();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let (topic, text) = line.split_once(' ').unwrap_or((&line, ""));
                let payload = serde_json::from_str(text).unwrap_or(Value::Null);
                seen.lock().unwrap().push(Message { topic: topic.to_owned(), payload });
            }
        });
        self.listener = Some(Guard(child));
        let count = self.messages().len();
        eventually("the listener hears", || {
            self.publish("wherry/probe", b"1", false);
            (self.messages().len() > count).then_some(())
        });
    }

    /// Publishes as a person would, by mosquitto_pub.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        let mut command = self.client("mosquitto_pub");
        command.args(["-t", topic, if payload.is_empty() { "-n" } else { "-s" }]).stdin(Stdio::piped());
        if retain {
            command.arg("-r");
        }
        let mut child = Guard(command.spawn().expect("mosquitto_pub is installed"));
        child.0.stdin.take().unwrap().write_all(payload).unwrap();
        assert!(child.0.wait().unwrap().success(), "mosquitto_pub {topic}");
    }

    /// Everything seen so far, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }
}
