//! A peer between agent and broker: it forwards to a real mosquitto, packet by packet, and misbehaves where a test wants it to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Packet types (MQTT 3.1.1, section 2.2.1).
pub const CONNECT: u8 = 1;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const SUBSCRIBE: u8 = 8;
pub const SUBACK: u8 = 9;

/// One packet on its way.
pub struct Passing<'a> {
    /// Connections are counted from 1.
    pub connection: usize,
    /// Packet type.
    pub kind: u8,
    /// The whole packet.
    pub bytes: &'a [u8],
}

/// What becomes of it.
pub enum Fate {
    Pass,
    Drop,
    /// These bytes go in its place.
    Replaced(Vec<u8>),
    /// Both sides see the connection closed.
    Cut,
}

type Rule = dyn FnMut(&Passing<'_>) -> Fate + Send;

/// A closed gate holds up what the agent sends, as a broker does that reads nothing.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

pub struct Between {
    pub port: u16,
    pub connections: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

impl Between {
    /// In front of the broker on this port.
    pub fn new(broker: u16, rule: impl FnMut(&Passing<'_>) -> Fate + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Self { port: listener.local_addr().unwrap().port(), connections: Arc::default(), gate: Arc::default() };
        let (count, gate, rule) = (between.connections.clone(), between.gate.clone(), Arc::new(Mutex::new(rule)) as Arc<Mutex<Rule>>);
        std::thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                let connection = count.fetch_add(1, Ordering::SeqCst) + 1;
                // A broker that is down: the agent sees its connection closed.
                let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                let two = |s: &TcpStream| s.try_clone().unwrap();
                let (up, down) = ((two(&agent), two(&broker)), (broker, agent));
                let (gate, up_rule, down_rule) = (gate.clone(), rule.clone(), rule.clone());
                std::thread::spawn(move || forward(up, connection, &up_rule, Some(&gate)));
                std::thread::spawn(move || forward(down, connection, &down_rule, None));
            }
        });
        between
    }

    /// The gate for what the agent sends.
    pub fn close_gate(&self, closed: bool) {
        *self.gate.closed.lock().unwrap() = closed;
        self.gate.opened.notify_all();
    }
}

fn forward((mut from, mut to): (TcpStream, TcpStream), connection: usize, rule: &Mutex<Rule>, gate: Option<&Gate>) {
    while let Ok(bytes) = packet(&mut from) {
        if let Some(gate) = gate {
            drop(gate.opened.wait_while(gate.closed.lock().unwrap(), |closed| *closed).unwrap());
        }
        let fate = rule.lock().unwrap()(&Passing { connection, kind: bytes[0] >> 4, bytes: &bytes });
        let sent = match fate {
            Fate::Pass => to.write_all(&bytes),
            Fate::Drop => Ok(()),
            Fate::Replaced(others) => to.write_all(&others),
            Fate::Cut => break,
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn packet(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0];
    from.read_exact(&mut bytes)?;
    let mut left = 0;
    for shift in [0, 7, 14, 21] {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        left |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let head = bytes.len();
    bytes.resize(head + left, 0);
    from.read_exact(&mut bytes[head..])?;
    Ok(bytes)
}
