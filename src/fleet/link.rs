//! The line to the broker.
//!
//! rumqttc's event loop serves here, unlike in the agent: its defects show in sessions that outlive a connection, and this one has none. Each
//! connection is a clean session; a fault ends it, and who wants another one makes it.

use super::settings::{Settings, Tls};
use super::topics;
use crate::exit::{Code, Error, reason};
use crate::sys::fd::read_file;
use ring::rand::{SecureRandom, SystemRandom};
use rumqttc::tokio_rustls::rustls;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, StateError, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, TlsError, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Largest packet in either direction: more than any device sends, so that what others have put on these topics does not end the connection.
const MAX_PACKET: usize = 1024 * 1024;
/// Longest PEM file that is read.
const MAX_PEM: usize = 512 * 1024;
/// Name, TCP, TLS, CONNECT and CONNACK together, in seconds.
const CONNECTING_S: u64 = 20;
/// Answers to SUBSCRIBE and PUBLISH.
const ANSWERING: Duration = Duration::from_secs(20);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Messages on the way to the broker at once. Far below rumqttc's own window, where identifiers would collide.
const WINDOW: usize = 16;
/// Requests that rumqttc holds.
const REQUESTS: usize = 2 * WINDOW;
/// Nothing for so long, after a round trip without a message, and all that the broker kept has come.
const QUIET: Duration = Duration::from_millis(150);
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 100;

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Vec<u8>,
    /// The broker had kept it.
    pub retained: bool,
}

/// What happened on the line.
enum Happened {
    Message(Message),
    Subscribed(Vec<bool>),
    Nothing,
}

/// A connection.
pub struct Link {
    root: String,
    broker: String,
    client: AsyncClient,
    events: EventLoop,
    queue: VecDeque<(String, Vec<u8>, bool)>,
    in_flight: usize,
    /// Messages that came while something else was waited for.
    early: VecDeque<Message>,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// Why not, with the broker's name.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let broker = format!("{}:{}", settings.host, settings.port);
        let (client, mut events) = AsyncClient::new(options(settings)?, REQUESTS);
        let mut network = events.network_options();
        network.set_connection_timeout(CONNECTING_S).set_tcp_nodelay(true);
        events.set_network_options(network);
        let mut link =
            Self { root: settings.root.clone(), broker, client, events, queue: VecDeque::new(), in_flight: 0, early: VecDeque::new() };
        // The first event is the CONNACK; a refusal is an error.
        link.events.poll().await.map_err(|e| link.failed(&e))?;
        Ok(link)
    }

    fn failed(&self, e: &ConnectionError) -> Error {
        let (code, why) = words(e);
        Error::new(code, format!("no connection to the broker {}: {why}", self.broker))
    }

    /// Subscribes, and waits until all that the broker kept has come; these messages, in their order.
    ///
    /// # Errors
    /// The connection failed, or the broker refused a filter.
    pub async fn subscribe(&mut self, filters: &[String]) -> Result<Vec<Message>, Error> {
        let mut messages = Vec::new();
        for some in filters.chunks(FILTERS) {
            let granted = self.ask(some, &mut messages).await?;
            if let Some((filter, _)) = some.iter().zip(granted).find(|(_, granted)| !granted) {
                return Err(Error::new(Code::NoPermission, format!("the broker {} refused the subscription to {filter}", self.broker))
                    .hint("its access list must let the operator read the devices' topics"));
            }
        }
        self.settle(&mut messages).await?;
        Ok(messages)
    }

    async fn ask(&mut self, filters: &[String], messages: &mut Vec<Message>) -> Result<Vec<bool>, Error> {
        let filters = filters.iter().map(|path| SubscribeFilter::new(path.clone(), qos(path)));
        self.client.try_subscribe_many(filters).map_err(|e| Error::new(Code::Internal, format!("cannot subscribe: {e}")))?;
        let until = Instant::now() + ANSWERING;
        loop {
            match self.turn(until).await? {
                Some(Happened::Subscribed(granted)) => return Ok(granted),
                Some(Happened::Message(message)) => messages.push(message),
                Some(Happened::Nothing) => {}
                None => return Err(self.silent("a subscription")),
            }
        }
    }

    /// The marker is a filter that nobody publishes to. MQTT does not say which retained message is the last one. Brokers send them before they answer what comes later, so an answer without a
    /// message before it, and quiet after it, mean the end.
    async fn settle(&mut self, messages: &mut Vec<Message>) -> Result<(), Error> {
        let marker = [topics::out(&self.root, None, "res/settled")];
        // What is published just now does not count: of a large fleet something always is.
        let kept = |messages: &[Message]| messages.iter().filter(|m| m.retained).count();
        loop {
            let before = kept(messages);
            self.ask(&marker, messages).await?;
            let until = Instant::now() + QUIET;
            while let Some(happened) = self.turn(until).await? {
                if let Happened::Message(message) = happened {
                    messages.push(message);
                }
            }
            if kept(messages) == before {
                return Ok(());
            }
        }
    }

    /// Puts a message behind those that wait to be sent.
    pub fn publish(&mut self, topic: String, payload: Vec<u8>, retain: bool) {
        self.queue.push_back((topic, payload, retain));
    }

    /// Sends all that waits, until the broker has taken it.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let mut until = Instant::now() + ANSWERING;
        while self.in_flight + self.queue.len() > 0 {
            let left = self.in_flight + self.queue.len();
            match self.turn(until).await? {
                Some(Happened::Message(message)) => self.early.push_back(message),
                Some(_) => {}
                None => return Err(self.silent("a message")),
            }
            if self.in_flight + self.queue.len() < left {
                until = Instant::now() + ANSWERING;
            }
        }
        Ok(())
    }

    /// The next message; `None` when there is none until then. What waits to be sent is sent meanwhile.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn next(&mut self, until: Instant) -> Result<Option<Message>, Error> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        loop {
            match self.turn(until).await? {
                Some(Happened::Message(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    async fn turn(&mut self, until: Instant) -> Result<Option<Happened>, Error> {
        self.pump()?;
        let Ok(event) = timeout_at(until, self.events.poll()).await else { return Ok(None) };
        match event.map_err(|e| self.failed(&e))? {
            Event::Incoming(Packet::Publish(p)) => {
                Ok(Some(Happened::Message(Message { topic: p.topic, payload: p.payload.to_vec(), retained: p.retain })))
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                let granted = answer.return_codes.iter().map(|code| *code != SubscribeReasonCode::Failure);
                Ok(Some(Happened::Subscribed(granted.collect())))
            }
            Event::Incoming(Packet::PubAck(_)) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Ok(Some(Happened::Nothing))
            }
            _ => Ok(Some(Happened::Nothing)),
        }
    }

    fn pump(&mut self) -> Result<(), Error> {
        while self.in_flight < WINDOW
            && let Some((topic, payload, retain)) = self.queue.pop_front()
        {
            let sent = self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
            sent.map_err(|e| Error::new(Code::Internal, format!("cannot publish: {e}")))?;
            self.in_flight += 1;
        }
        Ok(())
    }

    fn silent(&self, what: &str) -> Error {
        Error::new(Code::Unavailable, format!("the broker {} does not answer {what} within {} s", self.broker, ANSWERING.as_secs()))
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        // Without a goodbye the broker notices the end of the connection all the same.
        let _ = self.client.try_disconnect();
        while timeout_at(Instant::now() + QUIET, self.events.poll()).await.is_ok_and(|event| event.is_ok()) {}
    }
}

/// Steps and answers are wanted for sure. State is asked for at QoS 0: of a large fleet it comes in thousands at once, and at QoS 1 a broker drops in
/// silence what is too much for one client's queue (mosquitto: 1,000 messages), where at QoS 0 TCP makes it wait.
fn qos(filter: &str) -> QoS {
    let for_sure = ["/out/ack/", "/out/res/", "/out/get"].iter().any(|part| filter.contains(part));
    if for_sure { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

fn options(settings: &Settings) -> Result<MqttOptions, Error> {
    // rumqttc puts host and port together for the resolver.
    let host = if settings.host.contains(':') { format!("[{}]", settings.host) } else { settings.host.clone() };
    let mut options = MqttOptions::new(format!("wherryctl-{}", random_id()), host, settings.port);
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(true).set_max_packet_size(MAX_PACKET, MAX_PACKET);
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config(tls)?))));
    }
    Ok(options)
}

/// Eight hex digits that nobody else uses at the same time.
pub fn random_id() -> String {
    let mut bytes = [0; 4];
    // Without randomness the process id tells two of us on one machine apart.
    let random = SystemRandom::new().fill(&mut bytes).map_or(std::process::id(), |()| u32::from_ne_bytes(bytes));
    format!("{random:08x}")
}

// ---- TLS ----

fn config(tls: &Tls) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::new(Code::Internal, format!("TLS: {e}")))?.with_root_certificates(roots(&tls.ca)?);
    let Some((certificate, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_slice(&pem(key)?)
        .map_err(|_| bad(key, "holds no unencrypted private key in PEM (PKCS #8, PKCS #1 or SEC 1)"))?;
    builder
        .with_client_auth_cert(chain, key_der)
        .map_err(|e| bad(certificate, &format!("does not work together with {}: {e}", key.display())))
}

fn bad(file: &Path, what: &str) -> Error {
    Error::new(Code::BadData, format!("TLS: {} {what}", file.display()))
}

fn pem(file: &Path) -> Result<Vec<u8>, Error> {
    read_file(file, MAX_PEM).map_err(|e| Error::io(format!("TLS: cannot read {}", file.display()), &e))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(file)?).collect();
    found.ok().filter(|list| !list.is_empty()).ok_or_else(|| bad(file, "holds no certificate in PEM"))
}

/// A system's bundle may hold one that this library does not take: the others count.
fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let (taken, _) = store.add_parsable_certificates(certificates(file)?);
    if taken == 0 { Err(bad(file, "holds no certificate that can be used")) } else { Ok(store) }
}

// ---- errors in words ----

fn words(error: &ConnectionError) -> (Code, String) {
    let unavailable = |why: &str| (Code::Unavailable, why.to_owned());
    match error {
        ConnectionError::NetworkTimeout => unavailable(&format!("no answer within {CONNECTING_S} s")),
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::Io(e) | ConnectionError::Tls(TlsError::Io(e)) | ConnectionError::MqttState(StateError::Io(e)) => io_words(e),
        ConnectionError::Tls(TlsError::DNSName(_)) => unavailable("TLS: this is not a name that a certificate can have"),
        ConnectionError::MqttState(StateError::ConnectionAborted) => unavailable("the broker closed the connection"),
        ConnectionError::MqttState(StateError::AwaitPingResp) => unavailable("the broker went silent"),
        e => unavailable(&e.to_string()),
    }
}

fn io_words(e: &io::Error) -> (Code, String) {
    let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match (inner, e.kind()) {
        (Some(tls), _) => format!("TLS: {}", tls_words(tls)),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) => {
            "the broker hung up (does it want TLS, or a client certificate?)".into()
        }
        _ => reason(e),
    };
    (Code::Unavailable, why)
}

fn tls_words(error: &rustls::Error) -> String {
    use CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "the broker's certificate is not signed by an authority in the CA file".into()
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the broker's certificate is not for this name".into()
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "the broker's certificate has expired".into(),
        rustls::Error::InvalidMessage(_) => "the broker does not speak TLS on this port".into(),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => "the broker asks for a client certificate".into(),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => "the broker refused the handshake".into(),
        rustls::Error::AlertReceived(_) => format!("the broker refused: {error}"),
        e => e.to_string(),
    }
}

fn refused(code: ConnectReturnCode) -> (Code, String) {
    match code {
        ConnectReturnCode::BadUserNamePassword => (Code::NoPermission, "it refused user name or password".into()),
        ConnectReturnCode::NotAuthorized => (Code::NoPermission, "it refused: not authorized (user name, password, or access list)".into()),
        ConnectReturnCode::RefusedProtocolVersion => (Code::Unavailable, "it does not speak MQTT 3.1.1".into()),
        ConnectReturnCode::BadClientId => (Code::Unavailable, "it refused the client id".into()),
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => (Code::Unavailable, "it says that it is unavailable".into()),
    }
}
