//! `apply` and `rm`: publishes desired state, retained, and follows it on the devices.

use super::address::Address;
use super::args::Call;
use super::document::{Loaded, Ready, concluded, examine, shown, text, tombstone, whom};
use super::keys::SecretKey;
use super::keyset::{self, About, Keyset, kept_keys};
use super::progress::{Followed, Outcome, Said, Subject, reported, sentence, summary};
use super::seen::{Device, Link};
use super::session::{News, Session, block_on, now};
use super::settings::{self, Settings};
use super::tree::Language;
use super::{topics, watch};
use crate::cli::print;
use crate::exit::{Code, Error, note, visible};
use crate::image::Digest;
use crate::manifest::{Id, Name, SCHEMA, Target, Whom};
use crate::trust::{Envelope, Grant, KeyId, Kind};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long devices may take.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How often a waiting line looks at the clock.
const TICK: Duration = Duration::from_millis(500);

/// What is wanted of one app, or which keys are to count.
enum Wanted {
    Document(Box<Loaded>),
    Keyset(Box<Keyset>),
    Removal { app: Name, volumes: bool },
}

/// One document for one topic.
struct Order {
    target: Target,
    subject: Subject,
    ready: Ready,
    topic: String,
    /// What the broker keeps there before.
    before: Option<Vec<u8>>,
}

/// `wherryctl apply FILE...`.
///
/// # Errors
/// A bad file or address, no connection, a device that did not take it.
pub fn apply(call: &Call) -> Result<u8, Error> {
    // Every file is looked at before anything is done.
    let wanted: Vec<Result<Wanted, Error>> = call.operands.iter().map(|file| Wanted::of(file)).collect();
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (i, one) in wanted.iter().enumerate() {
        if let Some(other) = wanted[..i].iter().find(|other| other.subject() == one.subject()) {
            let what = match one.subject() {
                Subject::App(app) => format!("for app {app}"),
                Subject::Keyset => "keysets, of which the last one alone counts".to_owned(),
            };
            return Err(Error::new(Code::BadData, format!("{} and {} are both {what}", other.shown(), one.shown())));
        }
    }
    if let Some(sealed) = wanted.iter().find(|one| one.is_sealed() && call.has("key")) {
        return Err(Error::usage(format!("{} is signed already", sealed.shown())).hint("`wherryctl sign` adds a signature to an envelope"));
    }
    publish(call, wanted)
}

/// `wherryctl rm APP`.
///
/// # Errors
/// As [`apply`].
pub fn remove(call: &Call) -> Result<u8, Error> {
    publish(call, vec![Wanted::Removal { app: call.app(0)?, volumes: call.has("volumes") }])
}

fn publish(call: &Call, wanted: Vec<Wanted>) -> Result<u8, Error> {
    let settings = settings::load(call)?;
    let (given, keys) = (Address::of(call)?, signers(call, &settings)?);
    let own = settings.signing_key.as_ref().and_then(|file| SecretKey::of_file(Path::new(file)).ok()).map(|key| key.public.id);
    let wanted = wanted.into_iter().map(|w| w.addressed(given.as_ref(), &settings.root)).collect::<Result<Vec<_>, _>>()?;
    let timeout = call.duration("timeout")?.unwrap_or(TIMEOUT);
    let least = call.parsed("expect", |word| word.parse::<usize>().map_err(|_| "must be a number of devices".into()))?;
    block_on(async {
        let filters = filters(&settings, &wanted);
        let mut session = Session::open(&settings, &filters).await?;
        let orders = orders(&session, &wanted, &keys)?;
        warn(&session, &orders);
        for (order, wanted) in orders.iter().flat_map(|order| wanted.iter().map(move |(wanted, _)| (order, wanted))) {
            wanted.caution(&session, order, own);
        }
        if call.has("dry-run") {
            orders.iter().try_for_each(|order| tell_order(call, order, "would publish"))?;
            session.link.close().await;
            return Ok(0);
        }
        let mut followed: Vec<Followed> = orders.iter().map(|order| follow(&session, order, least)).collect();
        for order in &orders {
            session.link.publish(order.topic.clone(), order.ready.payload.clone(), true);
        }
        session.link.flush().await?;
        if call.has("no-wait") {
            orders.iter().try_for_each(|order| tell_order(call, order, "published"))?;
            session.link.close().await;
            return Ok(0);
        }
        let view = View::new(call);
        wait(&mut session, (&settings, &filters), &orders, &mut followed, view, timeout).await?;
        let result = verdict(call, &session, &orders, &followed, timeout);
        let taken_back = take_back(&mut session, &orders, &followed).await;
        session.link.close().await;
        result.and_then(|code| taken_back.map(|()| code))
    })
}

/// Keys of the command line, else that of the settings.
///
/// # Errors
/// One cannot be used.
pub fn signers(call: &Call, settings: &Settings) -> Result<Vec<SecretKey>, Error> {
    let given = call.values("key")?;
    let files = if given.is_empty() { settings.signing_key.iter().cloned().collect() } else { given };
    files.iter().map(|file| SecretKey::of_file(Path::new(file))).collect()
}

impl Wanted {
    /// What is in a file.
    fn of(file: &OsStr) -> Result<Self, Error> {
        let (shown, text) = (shown(file), text("apply", file)?);
        let language = Language::of(file, &text);
        match keyset::examine(&shown, language, &text) {
            Some(found) => concluded("apply", &shown, found).map(|keyset| Self::Keyset(Box::new(keyset))),
            None => concluded("apply", &shown, examine(&shown, language, &text)).map(|loaded| Self::Document(Box::new(loaded))),
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::Document(loaded) => Subject::App(loaded.manifest.app.clone()),
            Self::Keyset(_) => Subject::Keyset,
            Self::Removal { app, .. } => Subject::App(app.clone()),
        }
    }

    /// The file's name, if it came from one.
    fn shown(&self) -> &str {
        match self {
            Self::Document(loaded) => &loaded.shown,
            Self::Keyset(keyset) => &keyset.shown,
            Self::Removal { .. } => "",
        }
    }

    fn is_sealed(&self) -> bool {
        match self {
            Self::Document(loaded) => loaded.is_sealed(),
            Self::Keyset(keyset) => keyset.is_sealed(),
            Self::Removal { .. } => false,
        }
    }

    /// Number and target that the file itself has.
    fn own(&self) -> (Option<u64>, Option<&Target>) {
        match self {
            Self::Document(loaded) => (loaded.manifest.seq, loaded.manifest.target.as_ref()),
            Self::Keyset(keyset) => (keyset.seq, keyset.target.as_ref()),
            Self::Removal { .. } => (None, None),
        }
    }

    /// With whom it is for: as the command line says, else as the document itself does.
    fn addressed(self, given: Option<&Address>, root: &str) -> Result<(Self, Address), Error> {
        let named = self.own().1.cloned().map(|target| (self.shown().to_owned(), target));
        match (given, named) {
            (_, Some((file, target))) if target.fleet != root => {
                Err(Error::new(Code::BadData, format!("{file} is for fleet {}, and this is fleet {root}", target.fleet))
                    .hint("take `target` out of the file, or name the fleet by --root"))
            }
            (Some(given), Some((file, target))) if *given != Address::named(&target.whom) => {
                Err(Error::usage(format!("{file} is for {}, and the command line for somebody else", whom(&target)))
                    .hint("take `target` out of the file"))
            }
            (Some(given), _) => Ok((self, given.clone())),
            (None, Some((_, target))) => Ok((self, Address::named(&target.whom))),
            (None, None) => Err(Error::usage("nothing says whom it is for").hint("give --device ID, --group ID or --where SELECTOR")),
        }
    }

    fn ready(&self, session: &Session, target: &Target, keys: &[SecretKey]) -> Result<Ready, Error> {
        let (own, last) = (self.own().0, session.last_seq(&self.subject(), target));
        if self.is_sealed() && own <= last {
            let number = |seq: Option<u64>| seq.map_or_else(String::new, |n| n.to_string());
            let message = format!("{} has number {}, and {} is there already", self.shown(), number(own), number(last));
            return Err(Error::new(Code::BadData, message).hint("a signed document cannot be changed: sign it with a higher `seq`"));
        }
        let seq = session.next_seq(&self.subject(), target, own);
        match self {
            Self::Document(loaded) if loaded.is_sealed() => loaded.ready(seq, target),
            Self::Document(loaded) => loaded.signed(loaded.ready(seq, target)?, keys),
            Self::Keyset(keyset) => keyset.ready(seq, target, keys),
            Self::Removal { app, volumes } => tombstone(app, seq, target, *volumes).sealed(Kind::Desired, keys),
        }
    }

    /// Tells what a keyset would lock out.
    fn caution(&self, session: &Session, order: &Order, own: Option<KeyId>) {
        let (Self::Keyset(keyset), Subject::Keyset) = (self, &order.subject) else { return };
        let before = kept_keys(order.before.as_deref());
        let fileless = fileless(session, &order.target.whom, &before);
        let signers: Vec<KeyId> =
            Envelope::parse(&order.ready.payload).map_or_else(|_| Vec::new(), |e| e.signatures.iter().map(|s| s.key).collect());
        let Order { target, ready: Ready { seq, .. }, .. } = order;
        let about = About { target, seq: *seq, before: &before, signers: &signers, own, fileless: &fileless };
        keyset.cautions(&about).iter().for_each(|why| note(&format!("warning: keyset of {}: {why}", whom(target))));
        for key in keyset.dropped(&before) {
            note(&format!("keyset of {}: key {key} counts no more, but where a device has it in a file", whom(target)));
        }
    }
}

/// Devices that trust no key but those of this keyset: by them, members of a group show themselves too.
fn fileless(session: &Session, whom: &Whom, keyset: &[Grant]) -> Vec<Id> {
    let is_of_it = |key: &String| keyset.iter().any(|grant| grant.key.id.to_string() == *key);
    let meant = |id: &Id| !matches!(whom, Whom::Device(device) if device != id);
    let bare = |device: &Device| device.about.as_ref().is_some_and(|about| !about.keys.is_empty() && about.keys.iter().all(is_of_it));
    session.fleet.devices.iter().filter(|(id, device)| meant(id) && bare(device)).map(|(id, _)| id.clone()).collect()
}

fn filters(settings: &Settings, wanted: &[(Wanted, Address)]) -> Vec<String> {
    let root = &settings.root;
    let mut filters = BTreeSet::new();
    for (wanted, address) in wanted {
        let subject = wanted.subject();
        let devices: Vec<Option<&Id>> = match address {
            Address::Devices(ids) => ids.iter().map(Some).collect(),
            Address::Group(_) | Address::Where(_) => vec![None],
        };
        for device in devices {
            filters.extend(["presence", "reported", &subject.answers()].map(|rest| topics::out(root, device, rest)));
            filters.extend(device.map(|id| subject.topic(root, &Whom::Device(id.clone()))));
        }
        match address {
            Address::Devices(_) => {}
            Address::Group(id) => drop(filters.insert(subject.topic(root, &Whom::Group(id.clone())))),
            Address::Where(_) => filters.extend(subject.everywhere(root)),
        }
    }
    filters.into_iter().collect()
}

fn orders(session: &Session, wanted: &[(Wanted, Address)], keys: &[SecretKey]) -> Result<Vec<Order>, Error> {
    let mut orders = Vec::new();
    for (wanted, address) in wanted {
        for whom in address.resolve(&session.fleet, now())? {
            let (target, subject) = (session.target(&whom), wanted.subject());
            let ready = wanted.ready(session, &target, keys)?;
            let topic = subject.topic(&session.root, &whom);
            orders.push(Order { before: session.kept.get(&topic).cloned(), topic, target, subject, ready });
        }
    }
    Ok(orders)
}

/// What devices say beforehand that they cannot do, and that they were never there.
fn warn(session: &Session, orders: &[Order]) {
    for order in orders {
        for id in audience(session, order) {
            match session.fleet.devices.get(&id) {
                None => note(&format!("warning: {id} was never seen by this broker; it gets the document when it comes")),
                Some(device) => objections(device, order).iter().for_each(|why| note(&format!("warning: {id} {why}"))),
            }
        }
    }
}

/// Why a device will refuse it, from what it says of itself.
fn objections(device: &Device, order: &Order) -> Vec<String> {
    let subject = match &order.subject {
        Subject::App(app) => format!("the document for {app}"),
        Subject::Keyset => "the keyset".to_owned(),
    };
    let mut found: Vec<String> = device.cannot_read(SCHEMA).map(|why| format!("cannot read {subject}: {why}")).into_iter().collect();
    let Some(trusted) = device.about.as_ref().map(|about| &about.keys) else { return found };
    match Envelope::parse(&order.ready.payload) {
        Ok(_) if trusted.is_empty() => {
            found.push(format!("trusts no key, and refuses {subject}, which is signed: it needs a key file first"))
        }
        Ok(envelope) if !envelope.signatures.iter().any(|s| trusted.contains(&s.key.to_string())) => {
            let keys: Vec<String> = envelope.signatures.iter().map(|s| s.key.to_string()).collect();
            found.push(format!("does not trust key {}, which signs {subject}", keys.join(", ")));
        }
        Ok(_) => {}
        Err(_) if trusted.is_empty() => {}
        Err(_) => found.push(format!("takes signed documents only, and {subject} is not signed (--key)")),
    }
    found
}

/// Who is known to get an order: the device, or the members that have an app by the group.
fn audience(session: &Session, order: &Order) -> BTreeSet<Id> {
    match &order.target.whom {
        Whom::Device(id) => BTreeSet::from([id.clone()]),
        Whom::Group(_) => {
            session.fleet.devices.iter().filter(|(_, device)| device.is_of(&order.target)).map(|(id, _)| id.clone()).collect()
        }
    }
}

fn follow(session: &Session, order: &Order, least: Option<usize>) -> Followed {
    let group = matches!(order.target.whom, Whom::Group(_)).then(|| least.unwrap_or(1));
    Followed::new(order.subject.clone(), [order.ready.sha256, Digest::of(&order.ready.payload)], audience(session, order), group, now())
}

fn tell_order(call: &Call, order: &Order, what: &str) -> Result<(), Error> {
    let Order { target, subject, ready, topic, .. } = order;
    if call.json() {
        let document: serde_json::Value = serde_json::from_slice(&ready.payload).unwrap_or_default();
        return print::json(&json!({"topic": topic, "seq": ready.seq, "sha256": ready.sha256.hex(), "published": document}));
    }
    print::line(&format!("{what} {subject} for {}: {topic}, seq {}, {} bytes", whom(target), ready.seq, ready.payload.len()))
}

async fn wait(
    session: &mut Session,
    way: (&Settings, &[String]),
    orders: &[Order],
    followed: &mut [Followed],
    mut view: View,
    timeout: Duration,
) -> Result<(), Error> {
    let end = Instant::now() + timeout;
    while !followed.iter().all(|f| f.is_done(now())) && Instant::now() < end {
        match session.next((Instant::now() + TICK).min(end)).await {
            Ok(Some((News::Said(device, said), _))) => {
                let news = followed.iter_mut().any(|f| f.take(&device, &said, now()));
                if news {
                    view.step(&device, &said, followed)?;
                }
            }
            Ok(Some((News::Other, message))) => {
                let echo = |order: &Order| order.topic == message.topic && order.ready.payload == message.payload;
                orders.iter().zip(followed.iter_mut()).filter(|(order, _)| echo(order)).for_each(|(_, f)| f.echoed = true);
            }
            Ok(_) => {}
            Err(e) if e.code() == Code::Unavailable => {
                note(&format!("wherryctl: {}; trying again", visible(&e.to_string())));
                match timeout_at(end, watch::again(way.0, way.1)).await {
                    Ok(another) => *session = another?,
                    Err(_) => return Err(e),
                }
                catch_up(session, followed, &mut view)?;
                ask_again(session, orders);
            }
            Err(e) => return Err(e),
        }
    }
    catch_up(session, followed, &mut view)?;
    view.end()
}

/// Steps are told once only. What was missed stands in the reports.
fn catch_up(session: &Session, followed: &mut [Followed], view: &mut View) -> Result<(), Error> {
    for (device, known) in &session.fleet.devices {
        for (app, report) in &known.apps.0 {
            let Ok(app) = app.parse() else { continue };
            let said = reported(app, report);
            let news = said.is_settled() && followed.iter_mut().any(|f| f.take(device, &said, now()));
            if news {
                view.step(device, &said, followed)?;
            }
        }
    }
    Ok(())
}

/// No report tells what became of a keyset. Published again, the very same one is answered again.
fn ask_again(session: &mut Session, orders: &[Order]) {
    for order in orders.iter().filter(|order| order.subject == Subject::Keyset) {
        session.link.publish(order.topic.clone(), order.ready.payload.clone(), true);
    }
}

/// A keyset that nobody took and somebody refused must not stay where devices look for the one in force: the broker keeps the one before again.
async fn take_back(session: &mut Session, orders: &[Order], followed: &[Followed]) -> Result<(), Error> {
    for (order, followed) in orders.iter().zip(followed).filter(|(order, _)| order.subject == Subject::Keyset) {
        let outcomes = followed.outcomes();
        // Another one may have been published meanwhile, and a device that has not answered may take this one.
        let is_kept = session.kept.get(&order.topic) == Some(&order.ready.payload);
        if !is_kept || outcomes.is_empty() || outcomes.iter().any(|o| o.is_good() || o.is_open()) {
            continue;
        }
        let what = if order.before.is_some() { "the keyset before" } else { "no keyset" };
        note(&format!("the broker keeps {what} for {} again", whom(&order.target)));
        session.link.publish(order.topic.clone(), order.before.clone().unwrap_or_default(), true);
    }
    session.link.flush().await
}

/// How the steps are shown: lines, JSON, or for a person at a terminal one line that is written over below the ends.
struct View {
    json: bool,
    rewrite: bool,
    open: bool,
    /// Nobody reads any more. The outcome still counts.
    deaf: bool,
}

impl View {
    fn new(call: &Call) -> Self {
        Self { json: call.json(), rewrite: !call.json() && print::on_terminal(), open: false, deaf: false }
    }

    fn step(&mut self, device: &Id, said: &Said, followed: &[Followed]) -> Result<(), Error> {
        let text = match () {
            () if self.json => format!("{}\n", json!({"device": device, "ack": said})),
            () if !self.rewrite => format!("{}\n", sentence(device, said)),
            () => {
                let line = if said.is_settled() { format!("{}\n", sentence(device, said)) } else { String::new() };
                let outcomes: Vec<Outcome> = followed.iter().flat_map(Followed::outcomes).collect();
                self.open = true;
                format!("\r\x1b[K{line}{}", summary(&outcomes))
            }
        };
        self.write(&text)
    }

    fn end(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.open) { self.write("\n") } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        if self.deaf {
            return Ok(());
        }
        match print::bytes(text.as_bytes()) {
            Err(e) if e.is_closed() => self.deaf = true,
            other => other?,
        }
        Ok(())
    }
}

/// The exit code, or what went wrong.
fn verdict(call: &Call, session: &Session, orders: &[Order], followed: &[Followed], timeout: Duration) -> Result<u8, Error> {
    let outcomes: Vec<Outcome> = followed.iter().flat_map(Followed::outcomes).collect();
    if call.json() {
        let row = |o: &Outcome| {
            let state = o.said.as_ref().map(Said::state);
            match &o.subject {
                Subject::App(app) => json!({"device": o.device, "app": app, "state": state, "good": o.is_good()}),
                Subject::Keyset => json!({"device": o.device, "state": state, "good": o.is_good()}),
            }
        };
        match print::json(&json!({"outcomes": outcomes.iter().map(row).collect::<Vec<_>>()})) {
            Err(e) if e.is_closed() => {}
            other => other?,
        }
    }
    let subjects: BTreeSet<String> = orders.iter().map(|o| o.subject.to_string()).collect();
    let what = format!("cannot {} {}", call.verb.name, subjects.into_iter().collect::<Vec<_>>().join(", "));
    let bad: Vec<&Outcome> = outcomes.iter().filter(|o| !o.is_good()).collect();
    let more = if bad.len() > 1 { format!(", and {} more", bad.len() - 1) } else { String::new() };
    if let Some((device, said)) = bad.iter().find(|o| !o.is_open()).and_then(|o| Some((&o.device, o.said.as_ref()?))) {
        return Err(Error::new(Code::Failed, format!("{what}: {}{more}", sentence(device, said))));
    }
    let late = |why: String| Error::new(Code::Unavailable, format!("{what}: {why} within {} s{more}", timeout.as_secs_f32()));
    match (bad.first(), followed.iter().find_map(Followed::too_few)) {
        (Some(Outcome { device, said: None, .. }), _) => Err(hinted(late(format!("{device} did not answer")), session, followed, device)),
        (Some(Outcome { device, said: Some(said), .. }), _) => {
            Err(hinted(late(format!("{device} was not done, only {},", said.state())), session, followed, device))
        }
        (None, Some((0, _))) => Err(kept(late("no device of the group answered".into()), followed)),
        (None, Some((answered, least))) => Err(kept(late(format!("only {answered} of {least} devices answered")), followed)),
        (None, None) => Ok(0),
    }
}

const NOT_KEPT: &str = "the broker did not pass the document on: does its access list let the operator write desired state?";

/// Says so if the broker did not pass on what was published.
fn kept(e: Error, followed: &[Followed]) -> Error {
    if followed.iter().all(|f| f.echoed) { e } else { e.hint(NOT_KEPT) }
}

fn hinted(e: Error, session: &Session, followed: &[Followed], device: &Id) -> Error {
    let e = match session.fleet.devices.get(device).map(|d| d.link(now())) {
        Some(Link::Online) => e.hint("it is online; --timeout gives it longer"),
        Some(_) => e.hint("it is not online, and gets the document when it comes back"),
        None => e,
    };
    kept(e, followed)
}
