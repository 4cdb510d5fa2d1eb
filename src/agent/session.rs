//! The event loop: one connection after the other, with keeper, signals and timers beside it.

use super::backoff::Backoff;
use super::fetch::Downloads;
use super::keeper::{Keeper, Terminate, Watched};
use super::limit::Limit;
use super::outbox::{LAST_PKID, Outbox, Refused};
use super::topics::{Route, Topics};
use super::wire::{Frame, Wire, puback};
use super::{dial, outbox, tls};
use crate::ipc::{AgentSettings, Broker, Conn, FromAgent, Link, LinkState, Origin, Publication, ToAgent};
use crate::manifest::Name;
use crate::protocol::topics::Incoming;
use crate::protocol::{Presence, encode};
use crate::sys::time::boottime;
use ring::rand::{SecureRandom, SystemRandom};
use rumqttc::tokio_rustls::rustls::ClientConfig;
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, Publish, QoS, SubAck, Subscribe, SubscribeFilter, SubscribeReasonCode,
};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Largest payload that is handed to keeper.
const MAX_PAYLOAD: usize = 32 * 1024;
/// Name, TCP, TLS, CONNECT and CONNACK together.
const CONNECTING: Duration = Duration::from_secs(20);
/// From SUBSCRIBE to SUBACK, and never more than two keep-alives.
const SUBSCRIBING: Duration = Duration::from_secs(20);
/// A refused subscription is asked for again, for access lists change: after a keep-alive, and at the latest after this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The slowest link on which the largest packets still get through, in bytes per second.
const SLOWEST: f32 = 1000.0;
/// How long keeper may take for one message.
const KEEPER_BUSY: Duration = Duration::from_secs(20);
/// Goodbye: how long what waits may take to go out, and then `offline` to be acknowledged.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the last bytes may take to leave.
const CLOSING: Duration = Duration::from_millis(500);
/// Figures in the link report change all the time; changes of state are told at once.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Where the settings say 0.
const KEEP_ALIVE: u16 = 60;

const SUBSCRIPTION_PKID: u16 = LAST_PKID + 1;
const ONLINE_PKID: u16 = LAST_PKID + 2;
const OFFLINE_PKID: u16 = LAST_PKID + 3;

/// A broker, ready to be connected to.
pub struct Target {
    broker: Broker,
    tls: Result<Option<Arc<ClientConfig>>, String>,
    limit: Limit,
}

impl Target {
    /// Reads its certificate files now; a bad one becomes the sentence of every attempt.
    pub fn new(broker: Broker, files: tls::Files) -> Self {
        let tls = if broker.tls { tls::config(files).map(Some) } else { Ok(None) };
        Self { broker, tls, limit: Limit::default() }
    }
}

/// Why the loop left what it was doing.
enum Break {
    /// Keeper said goodbye, or a signal came.
    Goodbye,
    /// Keeper is gone.
    Gone,
    /// The connection failed: a sentence.
    Failed(String),
    /// The broker closed it: a sentence.
    Closed(String),
}

impl From<io::Error> for Break {
    fn from(e: io::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

/// One connection after its CONNACK.
struct Line {
    wire: Wire,
    keep_alive: Duration,
    /// SUBACK must be there by then.
    suback_by: Option<Instant>,
    /// Refused subscriptions are asked for again then.
    ask_again: Option<Instant>,
    /// PINGREQ went out at this time, and nothing arrived since.
    pinged: bool,
    /// PUBACK must be there by then; `None` while nothing is in flight. Some brokers lose one, which the protocol has no other cure for.
    puback_by: Option<Instant>,
}

struct Session {
    keeper: Keeper,
    downloads: Downloads,
    terminate: Watched,
    settings: AgentSettings,
    topics: Topics,
    outbox: Outbox,
    link: Link,
    reported: Link,
    /// Answers that keeper knows to be gone.
    answers: u64,
    report_at: Instant,
    backoff: Backoff,
    /// How long the last connection was online.
    lasted: Duration,
    /// Of this connection, a message that nobody here wants was told.
    told_unwanted: bool,
    /// This broker takes messages to be retained.
    retained: bool,
}

/// Runs until keeper says goodbye or is gone, or a signal comes.
pub async fn run(conn: Conn, terminate: Terminate, settings: AgentSettings, mut targets: Vec<Target>, fetch: tls::Files) -> io::Result<()> {
    let keeper = Keeper::new(conn)?;
    let mut session = Session {
        downloads: Downloads::new(keeper.second()?, settings.fetch.clone(), fetch),
        keeper,
        terminate: terminate.watch()?,
        topics: Topics::new(&settings),
        outbox: Outbox::default(),
        link: Link { conn: settings.conn, ..Link::default() },
        reported: Link::default(),
        answers: 0,
        report_at: Instant::now(),
        backoff: Backoff::default(),
        lasted: Duration::ZERO,
        told_unwanted: false,
        retained: true,
        settings,
    };
    if targets.is_empty() {
        session.tell();
        let _ = session.meanwhile(std::future::pending::<()>()).await;
        return Ok(());
    }
    while session.round(&mut targets).await.is_ok() {}
    Ok(())
}

impl Session {
    /// Tries the brokers in their order until one was online, then waits. An error is the end of the agent.
    async fn round(&mut self, targets: &mut [Target]) -> Result<(), Break> {
        for target in targets {
            match self.connection(target).await {
                Break::Failed(sentence) => self.failed(target, sentence),
                Break::Closed(sentence) => {
                    self.failed(target, sentence);
                    self.cut_off(target);
                }
                end => return Err(end),
            }
            if !self.lasted.is_zero() {
                break;
            }
        }
        let wait = self.backoff.after(self.lasted, random());
        self.link.state = LinkState::Waiting;
        self.link.retry_s = Some(wait.as_secs_f32().ceil() as u32);
        self.tell();
        self.meanwhile(tokio::time::sleep(wait)).await
    }

    fn failed(&mut self, target: &Target, sentence: String) {
        if self.link.error.as_ref() != Some(&sentence) {
            log::warn!("{}:{}: {sentence}", target.broker.host, target.broker.port);
        }
        self.link.error = Some(sentence);
    }

    /// The broker may have done that because of what we sent.
    fn cut_off(&mut self, target: &mut Target) {
        let largest = self.outbox.in_flight().max().unwrap_or(0);
        if target.limit.cut_off(largest, boottime()) {
            let most = target.limit.most(boottime());
            log::error!("{} closes the connection over packets of more than {most} bytes: they are given up for an hour", self.link.broker);
        }
    }

    async fn connection(&mut self, target: &mut Target) -> Break {
        (self.lasted, self.told_unwanted, self.retained) = (Duration::ZERO, false, target.broker.retained);
        self.outbox.limit(target.limit.most(boottime()));
        let Broker { host, port, .. } = &target.broker;
        self.link.broker = format!("{host}:{port}");
        (self.link.state, self.link.address, self.link.retry_s) = (LinkState::Connecting, None, None);
        self.link.subscriptions.clear();
        self.tell();
        match self.open(target).await {
            Ok(mut line) => self.online(&mut line, &mut target.limit).await,
            Err(end) => end,
        }
    }

    /// Up to CONNACK.
    async fn open(&mut self, target: &Target) -> Result<Line, Break> {
        let config = target.tls.clone().map_err(Break::Failed)?;
        let broker = &target.broker;
        let deadline = Instant::now() + CONNECTING;
        let (tcp, address) = self.by(deadline, dial::tcp(&broker.host, broker.port)).await?;
        self.link.address = Some(address.to_string());
        let with_tls = config.is_some();
        let stream = self.by(deadline, dial::secure(tcp, &broker.host, config)).await?;
        // Counted and told before the broker learns the will that names it: an agent that dies now must not use the number again.
        self.link.conn += 1;
        self.tell();
        let keep_alive = if broker.keep_alive_s == 0 { KEEP_ALIVE } else { broker.keep_alive_s };
        let mut wire = Wire::new(stream);
        wire.send(&Packet::Connect(self.connect(broker, keep_alive)))?;
        let answer = self.by(deadline, connack(&mut wire, &broker.host, with_tls)).await?;
        log::info!("connected to {} ({address}), session {}", self.link.broker, if answer.session_present { "kept" } else { "new" });
        self.outbox.reconnected(answer.session_present);
        let keep_alive = Duration::from_secs(keep_alive.into());
        Ok(Line { wire, keep_alive, suback_by: None, ask_again: None, pinged: false, puback_by: None })
    }

    fn connect(&self, broker: &Broker, keep_alive: u16) -> Connect {
        let Publish { topic, payload, qos, retain, .. } = self.offline();
        Connect {
            keep_alive,
            clean_session: false,
            last_will: Some(LastWill { topic, message: payload, qos, retain }),
            login: broker.credentials.as_ref().map(|(user, password)| Login::new(user, password)),
            ..Connect::new(self.settings.device.as_str())
        }
    }

    /// `work`, but no longer than `deadline`, with everything else served.
    async fn by<T>(&mut self, deadline: Instant, work: impl Future<Output = Result<T, String>>) -> Result<T, Break> {
        let late = || format!("no connection within {} s", CONNECTING.as_secs());
        match self.meanwhile(timeout_at(deadline, work)).await? {
            Ok(result) => result.map_err(Break::Failed),
            Err(_) => Err(Break::Failed(late())),
        }
    }

    /// `work`, with keeper, signals and the link report served beside it.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Break> {
        let mut work = pin!(work);
        loop {
            let report_at = self.report_due();
            tokio::select! {
                done = &mut work => return Ok(done),
                message = self.keeper.receive() => self.keeper_said(message)?,
                _ = self.terminate.arrived() => return Err(Break::Goodbye),
                () = until(report_at) => self.tell(),
            }
        }
    }

    /// Lives with one connection until it ends.
    async fn online(&mut self, line: &mut Line, limit: &mut Limit) -> Break {
        let since = Instant::now();
        let end = match self.subscribe(line) {
            Ok(()) => self.serve(line, limit).await,
            Err(e) => e.into(),
        };
        if self.link.state == LinkState::Online {
            self.lasted = since.elapsed().max(Duration::from_millis(1));
        }
        if let Break::Goodbye = end {
            self.farewell(line).await;
        }
        end
    }

    async fn serve(&mut self, line: &mut Line, limit: &mut Limit) -> Break {
        loop {
            if let Err(end) = self.turn(line, limit).await {
                return end;
            }
        }
    }

    async fn turn(&mut self, line: &mut Line, limit: &mut Limit) -> Result<(), Break> {
        self.pump(line)?;
        self.tell_answers();
        let (report_at, wake) = (self.report_due(), line.wake());
        tokio::select! {
            frame = line.wire.turn() => match frame.map_err(closed)? {
                Some(frame) => self.arrived(line, limit, frame).await,
                None => Ok(()),
            },
            message = self.keeper.receive() => self.keeper_said(message),
            _ = self.terminate.arrived() => Err(Break::Goodbye),
            () = until(report_at) => { self.tell(); Ok(()) }
            () = sleep_until(wake) => self.tick(line),
        }
    }

    /// Sends what waits, once all before it is with the kernel: a slow broker fills the outbox, which is bounded, and no other buffer.
    fn pump(&mut self, line: &mut Line) -> io::Result<()> {
        if self.link.state != LinkState::Online || !line.wire.is_written() {
            return Ok(());
        }
        match self.outbox.next() {
            None => Ok(()),
            Some(out) => {
                let publish = Publish { dup: out.dup, ..self.message(out.route, out.pkid, out.payload) };
                if line.puback_by.is_none() {
                    self.expect_puback(line);
                }
                line.wire.send(&Packet::Publish(publish))
            }
        }
    }

    /// Two keep-alives, and the time that a slow link takes for what is in flight.
    fn expect_puback(&self, line: &mut Line) {
        let bytes: usize = self.outbox.in_flight().sum();
        let patience = line.keep_alive * 2 + Duration::from_secs_f32(bytes as f32 / SLOWEST);
        line.puback_by = (bytes > 0).then(|| Instant::now() + patience);
    }

    /// Asks for all topics, whether or not the broker kept the session: its memory is not relied on, and retained messages come again.
    fn subscribe(&mut self, line: &mut Line) -> io::Result<()> {
        let filter = |path| SubscribeFilter { path, qos: QoS::AtLeastOnce };
        let filters = self.topics.filters().into_iter().map(filter).collect();
        line.suback_by = Some(Instant::now() + SUBSCRIBING.min(line.keep_alive * 2));
        line.ask_again = None;
        line.wire.send(&Packet::Subscribe(Subscribe { pkid: SUBSCRIPTION_PKID, filters }))
    }

    fn subscribed(&mut self, line: &mut Line, answer: &SubAck) -> Result<(), Break> {
        let filters = self.topics.filters();
        if answer.pkid != SUBSCRIPTION_PKID || answer.return_codes.len() != filters.len() {
            return Err(Break::Failed("the broker answered a subscription that was not asked for".into()));
        }
        let granted = |code: &SubscribeReasonCode| match code {
            SubscribeReasonCode::Success(qos) => Some(*qos as u8),
            SubscribeReasonCode::Failure => None,
        };
        self.link.subscriptions = filters.into_iter().zip(answer.return_codes.iter().map(granted)).collect();
        let refused = self.link.subscriptions.iter().find(|(_, qos)| qos.is_none()).map(|(filter, _)| filter);
        let sentence = refused.map(|filter| format!("the broker refused the subscription to {filter} (its access list?)"));
        if let Some(sentence) = sentence.as_ref().filter(|s| self.link.error.as_ref() != Some(s)) {
            log::warn!("{sentence}");
        }
        line.suback_by = None;
        line.ask_again = sentence.is_some().then(|| Instant::now() + ASK_AGAIN.min(line.keep_alive));
        self.link.error = sentence;
        if self.link.state != LinkState::Online {
            self.announce(line)?;
        }
        self.tell();
        Ok(())
    }

    /// Presence after the subscriptions: who sees `online` may send at once.
    fn announce(&mut self, line: &mut Line) -> io::Result<()> {
        let online = Presence::online(self.settings.boot, self.link.conn, self.settings.interval_s);
        self.link.state = LinkState::Online;
        line.wire.send(&Packet::Publish(self.message(self.topics.presence(), ONLINE_PKID, encode(&online))))
    }

    /// The will, and what is published before an orderly end.
    fn offline(&self) -> Publish {
        self.message(self.topics.presence(), OFFLINE_PKID, encode(&Presence::will(self.settings.boot, self.link.conn)))
    }

    fn message(&self, route: Route, pkid: u16, payload: Vec<u8>) -> Publish {
        Publish { retain: route.retain && self.retained, pkid, ..Publish::new(route.topic, route.qos, payload) }
    }

    async fn arrived(&mut self, line: &mut Line, limit: &mut Limit, frame: Frame) -> Result<(), Break> {
        line.pinged = false;
        match frame {
            Frame::Skipped(head) => {
                self.too_large(&head.topic, head.payload).await?;
                let qos = if head.pkid == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
                acknowledge(line, qos, head.pkid)
            }
            Frame::Packet(Packet::Publish(p)) => {
                let (qos, pkid) = (p.qos, p.pkid);
                self.deliver(p).await?;
                // Only now: what keeper never got, the broker sends again.
                acknowledge(line, qos, pkid)
            }
            Frame::Packet(Packet::PubAck(ack)) => {
                if let Some(size) = self.acknowledged(ack.pkid) {
                    limit.took(size);
                    self.expect_puback(line);
                }
                Ok(())
            }
            Frame::Packet(Packet::SubAck(answer)) => self.subscribed(line, &answer),
            Frame::Packet(Packet::PingResp) => Ok(()),
            Frame::Packet(other) => Err(Break::Failed(format!("the broker sent {}, which no broker may send now", kind(&other)))),
        }
    }

    /// The size of a packet of the outbox.
    fn acknowledged(&mut self, pkid: u16) -> Option<usize> {
        let size = self.outbox.acknowledged(pkid);
        if size.is_some() || pkid == ONLINE_PKID {
            self.link.last_out_s = Some(boottime().as_secs());
        }
        size
    }

    async fn deliver(&mut self, p: Publish) -> Result<(), Break> {
        self.link.last_in_s = Some(boottime().as_secs());
        if p.payload.is_empty() {
            return Ok(());
        }
        if p.payload.len() > MAX_PAYLOAD {
            return self.too_large(&p.topic, p.payload.len()).await;
        }
        let payload = p.payload.to_vec();
        match self.topics.parse(&p.topic) {
            Some(Incoming::Desired { origin, app }) => self.to_keeper(FromAgent::Desired { origin, app, payload }).await,
            Some(Incoming::Command { id }) => self.to_keeper(FromAgent::Command { id, retained: p.retain, payload }).await,
            Some(Incoming::Keyset { origin }) => self.to_keeper(FromAgent::Keyset { origin, payload }).await,
            Some(Incoming::Config) => {
                self.unwanted("ignored settings over MQTT: this version takes them from its file only");
                Ok(())
            }
            None => {
                self.unwanted(&format!("ignored a message on unknown topic {:?}", p.topic));
                Ok(())
            }
        }
    }

    /// Told once per connection: a broker must not fill the log.
    fn unwanted(&mut self, sentence: &str) {
        if !std::mem::replace(&mut self.told_unwanted, true) {
            log::warn!("{sentence}; no more of these are told until the next connection");
        }
    }

    async fn too_large(&mut self, topic: &str, bytes: usize) -> Result<(), Break> {
        self.link.last_in_s = Some(boottime().as_secs());
        log::warn!("ignored a message of {bytes} bytes on {topic:?}: at most {MAX_PAYLOAD} are taken");
        match self.topics.parse(topic) {
            Some(Incoming::Desired { origin, app }) => self.oversize(origin, app, bytes).await,
            _ => Ok(()),
        }
    }

    async fn oversize(&self, origin: Origin, app: Name, bytes: usize) -> Result<(), Break> {
        self.to_keeper(FromAgent::Oversize { origin, app, bytes: bytes as u64 }).await
    }

    async fn to_keeper(&self, message: FromAgent) -> Result<(), Break> {
        match timeout(KEEPER_BUSY, self.keeper.send(&message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Break::Gone),
            Err(_) => Err(Break::Failed(format!("keeper took no message for {} s", KEEPER_BUSY.as_secs()))),
        }
    }

    fn keeper_said(&mut self, message: io::Result<Option<(ToAgent, Vec<OwnedFd>)>>) -> Result<(), Break> {
        match message {
            Ok(Some((ToAgent::Publish(publication), _))) => self.enqueue(publication),
            Ok(Some((ToAgent::Goodbye, _))) => return Err(Break::Goodbye),
            Ok(Some((ToAgent::Configure(_), _))) => log::warn!("ignored new settings: keeper starts another agent for them"),
            Ok(Some((ToAgent::Download(job), mut pipe))) => match pipe.pop() {
                Some(pipe) => self.downloads.start(job, pipe),
                None => log::error!("cannot download {}: keeper sent no pipe", job.wish.url),
            },
            Ok(Some((ToAgent::Abandon(id), _))) => self.downloads.abandon(id),
            Ok(None) => return Err(Break::Gone),
            Err(e) => {
                log::error!("cannot read from keeper: {e}");
                return Err(Break::Gone);
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, publication: Publication) {
        // Keeper takes answers from topics that were read as ids, and no other.
        let Some(route) = self.topics.route(&publication.topic) else {
            return log::error!("cannot publish: {:?} is not a topic name", publication.topic);
        };
        let name = route.topic.clone();
        let worth = outbox::worth(&publication);
        match self.outbox.push(publication.topic, route, worth, publication.payload) {
            Ok(()) => {}
            Err(Refused::TooLarge(bytes)) => log::error!("cannot publish on {name}: the packet would have {bytes} bytes"),
            Err(Refused::Full) => log::warn!("cannot publish on {name}: the outbox is full"),
        }
    }

    /// Timers of a connection.
    fn tick(&mut self, line: &mut Line) -> Result<(), Break> {
        let now = Instant::now();
        if now >= line.dead_at() {
            return Err(Break::Failed(format!(
                "nothing from the broker for {} s: connection given up",
                (now - line.wire.last_in).as_secs()
            )));
        }
        if line.suback_by.is_some_and(|t| now >= t) {
            return Err(Break::Failed("the broker answered no subscription: connection given up".into()));
        }
        if line.puback_by.is_some_and(|t| now >= t) {
            return Err(Break::Failed("the broker acknowledged no message for a long time: connection given up".into()));
        }
        if line.ask_again.is_some_and(|t| now >= t) {
            self.subscribe(line)?;
        }
        if line.ping_at().is_some_and(|t| now >= t) {
            line.pinged = true;
            line.wire.send(&Packet::PingReq)?;
        }
        Ok(())
    }

    /// An orderly end: DISCONNECT makes the broker forget the will, so `offline` is published here.
    async fn farewell(&mut self, line: &mut Line) {
        let _ = timeout(GOODBYE, self.send_the_rest(line)).await;
        if line.wire.send(&Packet::Publish(self.offline())).is_ok()
            && matches!(timeout(GOODBYE, acknowledgement(&mut line.wire, OFFLINE_PKID)).await, Ok(Ok(())))
        {
            let _ = line.wire.send(&Packet::Disconnect);
        }
        // Without the acknowledgement no DISCONNECT either: the will then says what we could not.
        let _ = timeout(CLOSING, line.wire.close()).await;
    }

    async fn send_the_rest(&mut self, line: &mut Line) -> io::Result<()> {
        while self.link.state == LinkState::Online && !self.outbox.is_empty() {
            self.pump(line)?;
            if let Some(Frame::Packet(Packet::PubAck(ack))) = line.wire.turn().await? {
                self.acknowledged(ack.pkid);
            }
        }
        Ok(())
    }

    fn refresh(&mut self) {
        self.link.queued = self.outbox.len() as u32;
        self.link.dropped = self.outbox.dropped();
    }

    /// When the next link report is due: never while nothing has changed.
    fn report_due(&mut self) -> Option<Instant> {
        self.refresh();
        (self.link != self.reported || self.answers != self.outbox.answers()).then_some(self.report_at)
    }

    /// Keeper sends the next frames of a stream only when those before are gone.
    fn tell_answers(&mut self) {
        let gone = self.outbox.answers();
        if gone != self.answers && self.keeper.try_send(&FromAgent::Answers(gone)).is_ok() {
            self.answers = gone;
        }
    }

    /// Tells keeper how the link is. A full socket means that keeper is behind; the next report says it all again.
    fn tell(&mut self) {
        self.refresh();
        self.report_at = Instant::now() + REPORT_EVERY;
        if self.keeper.try_send(&FromAgent::Link(self.link.clone())).is_ok() {
            self.reported = self.link.clone();
        }
        self.tell_answers();
    }
}

impl Line {
    fn dead_at(&self) -> Instant {
        self.wire.last_in + self.keep_alive.mul_f32(1.5)
    }

    /// A ping is due when either direction was silent: the broker wants to hear from us, and we from it.
    fn ping_at(&self) -> Option<Instant> {
        let silent = self.wire.last_in.min(self.wire.last_out);
        (!self.pinged).then(|| silent + self.keep_alive.mul_f32(0.75))
    }

    fn wake(&self) -> Instant {
        let times = [Some(self.dead_at()), self.ping_at(), self.suback_by, self.ask_again, self.puback_by];
        times.into_iter().flatten().min().unwrap_or_else(|| self.dead_at())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn connack(wire: &mut Wire, host: &str, with_tls: bool) -> Result<ConnAck, String> {
    match wire.receive().await {
        Ok(Frame::Packet(Packet::ConnAck(answer))) if answer.code == ConnectReturnCode::Success => Ok(answer),
        Ok(Frame::Packet(Packet::ConnAck(answer))) => Err(refusal(answer.code).into()),
        Ok(_) => Err("the broker answered CONNECT with something else".into()),
        Err(e) => Err(tls::words(&e, host).unwrap_or_else(|| hung_up(&e, with_tls))),
    }
}

/// The alert that tells why is lost when the broker resets the connection in the same moment.
fn hung_up(error: &io::Error, with_tls: bool) -> String {
    let hint = if with_tls {
        "does it ask for another client certificate, or take no retained messages?"
    } else {
        "does it want TLS, refuse this client id, or take no retained messages?"
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            format!("the broker hung up in place of an answer to CONNECT ({hint})")
        }
        _ => dial::plain(error),
    }
}

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "the broker accepted",
        ConnectReturnCode::RefusedProtocolVersion => "the broker does not speak MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "the broker refused the client id (the device id)",
        ConnectReturnCode::ServiceUnavailable => "the broker says that it is unavailable",
        ConnectReturnCode::BadUserNamePassword => "the broker refused user name or password",
        ConnectReturnCode::NotAuthorized => "the broker refused: not authorized (user name, password, or access list)",
    }
}

fn closed(error: io::Error) -> Break {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Break::Closed("the broker closed the connection (another client with this device id does that too)".into())
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Break::Closed(dial::plain(&error)),
        _ => Break::Failed(dial::plain(&error)),
    }
}

async fn acknowledgement(wire: &mut Wire, pkid: u16) -> io::Result<()> {
    loop {
        if let Frame::Packet(Packet::PubAck(ack)) = wire.receive().await?
            && ack.pkid == pkid
        {
            return Ok(());
        }
    }
}

fn acknowledge(line: &mut Line, qos: QoS, pkid: u16) -> Result<(), Break> {
    if let Some(packet) = puback(qos, pkid)? {
        line.wire.send(&packet)?;
    }
    Ok(())
}

fn kind(packet: &Packet) -> &'static str {
    match packet {
        Packet::ConnAck(_) => "a second CONNACK",
        Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => "a packet of QoS 2",
        Packet::UnsubAck(_) => "UNSUBACK",
        _ => "a packet for brokers",
    }
}

/// From the kernel.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the longest wait is the safe one.
    SystemRandom::new().fill(&mut bytes).map_or(u32::MAX, |()| u32::from_ne_bytes(bytes))
}
