//! `apply` and `rm`: publishes desired state, retained, and follows it on the devices.

use super::address::Address;
use super::args::Call;
use super::document::{Loaded, Ready, load, tombstone, whom};
use super::keys::{SecretKey, opened};
use super::progress::{Followed, Outcome, is_settled, reported, sentence, summary};
use super::seen::{Device, Link};
use super::session::{News, Session, block_on, now};
use super::settings::{self, Settings};
use super::{topics, watch};
use crate::cli::print;
use crate::exit::{Code, Error, note, visible};
use crate::image::Digest;
use crate::manifest::{Id, Name, SCHEMA, Target, Whom};
use crate::protocol::Ack;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long devices may take.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How often a waiting line looks at the clock.
const TICK: Duration = Duration::from_millis(500);

/// What is wanted of one app.
enum Wanted {
    Document(Box<Loaded>),
    Removal { app: Name, volumes: bool },
}

/// One document for one topic.
struct Order {
    target: Target,
    app: Name,
    ready: Ready,
    topic: String,
}

/// `wherryctl apply FILE...`.
///
/// # Errors
/// A bad file or address, no connection, a device that did not take it.
pub fn apply(call: &Call) -> Result<u8, Error> {
    // Every file is looked at before anything is done.
    let loaded: Vec<Result<Loaded, Error>> = call.operands.iter().map(|file| load("apply", file)).collect();
    let loaded = loaded.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (i, one) in loaded.iter().enumerate() {
        if let Some(other) = loaded[..i].iter().find(|other| other.manifest.app == one.manifest.app) {
            return Err(Error::new(Code::BadData, format!("{} and {} are both for app {}", other.shown, one.shown, one.manifest.app)));
        }
    }
    if let Some(sealed) = loaded.iter().find(|one| one.is_sealed() && call.has("key")) {
        return Err(Error::usage(format!("{} is signed already", sealed.shown)).hint("`wherryctl sign` adds a signature to an envelope"));
    }
    publish(call, loaded.into_iter().map(|l| Wanted::Document(Box::new(l))).collect())
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
    let wanted = wanted.into_iter().map(|w| w.addressed(given.as_ref(), &settings.root)).collect::<Result<Vec<_>, _>>()?;
    let timeout = call.duration("timeout")?.unwrap_or(TIMEOUT);
    let least = call.parsed("expect", |word| word.parse::<usize>().map_err(|_| "must be a number of devices".into()))?;
    block_on(async {
        let filters = filters(&settings, &wanted);
        let mut session = Session::open(&settings, &filters).await?;
        let orders = orders(&session, &wanted, &keys)?;
        warn(&session, &orders);
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
        session.link.close().await;
        result
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
    fn app(&self) -> &Name {
        match self {
            Self::Document(loaded) => &loaded.manifest.app,
            Self::Removal { app, .. } => app,
        }
    }

    /// With whom it is for: as the command line says, else as the document itself does.
    fn addressed(self, given: Option<&Address>, root: &str) -> Result<(Self, Address), Error> {
        let named = match &self {
            Self::Document(loaded) => loaded.manifest.target.clone().map(|target| (loaded.shown.clone(), target)),
            Self::Removal { .. } => None,
        };
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
        match self {
            Self::Document(loaded) if loaded.is_sealed() => {
                let (own, last) = (loaded.manifest.seq, session.last_seq(self.app(), target));
                if own <= last {
                    let number = |seq: Option<u64>| seq.map_or_else(String::new, |n| n.to_string());
                    let message = format!("{} has number {}, and {} is there already", loaded.shown, number(own), number(last));
                    return Err(Error::new(Code::BadData, message).hint("a signed document cannot be changed: sign it with a higher `seq`"));
                }
                loaded.ready(0, target)
            }
            Self::Document(loaded) => loaded.signed(loaded.ready(session.next_seq(self.app(), target, loaded.manifest.seq), target)?, keys),
            Self::Removal { app, volumes } => tombstone(app, session.next_seq(app, target, None), target, *volumes).sealed(keys),
        }
    }
}

fn filters(settings: &Settings, wanted: &[(Wanted, Address)]) -> Vec<String> {
    let root = &settings.root;
    let mut filters = BTreeSet::new();
    for (wanted, address) in wanted {
        let app = wanted.app();
        let devices: Vec<Option<&Id>> = match address {
            Address::Devices(ids) => ids.iter().map(Some).collect(),
            Address::Group(_) | Address::Where(_) => vec![None],
        };
        for device in devices {
            let ack = format!("ack/{app}");
            filters.extend(["presence", "reported", &ack].map(|rest| topics::out(root, device, rest)));
            filters.extend(device.map(|id| topics::desired(root, &Whom::Device(id.clone()), app)));
        }
        match address {
            Address::Devices(_) => {}
            Address::Group(id) => drop(filters.insert(topics::desired(root, &Whom::Group(id.clone()), app))),
            Address::Where(_) => drop(filters.insert(topics::desired_everywhere(root, app))),
        }
    }
    filters.into_iter().collect()
}

fn orders(session: &Session, wanted: &[(Wanted, Address)], keys: &[SecretKey]) -> Result<Vec<Order>, Error> {
    let mut orders = Vec::new();
    for (wanted, address) in wanted {
        for whom in address.resolve(&session.fleet, now())? {
            let (target, app) = (session.target(&whom), wanted.app().clone());
            let ready = wanted.ready(session, &target, keys)?;
            orders.push(Order { topic: topics::desired(&session.root, &whom, &app), target, app, ready });
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
                Some(device) => {
                    let why = device.cannot_read(SCHEMA);
                    let strict = device.about.as_ref().is_some_and(|about| !about.keys.is_empty());
                    if strict && opened(&order.ready.payload) == order.ready.payload {
                        note(&format!("warning: {id} takes signed documents only, and the one for {} is not signed (--key)", order.app));
                    }
                    why.iter().for_each(|why| note(&format!("warning: {id} cannot read the document for {}: {why}", order.app)));
                }
            }
        }
    }
}

/// Who is known to get an order: the device, or the members that have an app by the group.
fn audience(session: &Session, order: &Order) -> BTreeSet<Id> {
    match &order.target.whom {
        Whom::Device(id) => BTreeSet::from([id.clone()]),
        Whom::Group(_) => {
            let member = |device: &Device| device.apps.0.iter().any(|(_, report)| report.target == order.target);
            session.fleet.devices.iter().filter(|(_, device)| member(device)).map(|(id, _)| id.clone()).collect()
        }
    }
}

fn follow(session: &Session, order: &Order, least: Option<usize>) -> Followed {
    let group = matches!(order.target.whom, Whom::Group(_)).then(|| least.unwrap_or(1));
    Followed::new(order.app.clone(), [order.ready.sha256, Digest::of(&order.ready.payload)], audience(session, order), group, now())
}

fn tell_order(call: &Call, order: &Order, what: &str) -> Result<(), Error> {
    let Order { target, app, ready, topic } = order;
    if call.json() {
        let document: serde_json::Value = serde_json::from_slice(&ready.payload).unwrap_or_default();
        return print::json(&json!({"topic": topic, "seq": ready.seq, "sha256": ready.sha256.hex(), "published": document}));
    }
    print::line(&format!("{what} {app} for {}: {topic}, seq {}, {} bytes", whom(target), ready.seq, ready.payload.len()))
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
            Ok(Some((News::Ack(device, ack), _))) => {
                let news = followed.iter_mut().any(|f| f.take(&device, &ack, now()));
                if news {
                    view.step(&device, &ack, followed)?;
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
            let ack = reported(app, report);
            let news = is_settled(&ack) && followed.iter_mut().any(|f| f.take(device, &ack, now()));
            if news {
                view.step(device, &ack, followed)?;
            }
        }
    }
    Ok(())
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

    fn step(&mut self, device: &Id, ack: &Ack, followed: &[Followed]) -> Result<(), Error> {
        let text = match () {
            () if self.json => format!("{}\n", json!({"device": device, "ack": ack})),
            () if !self.rewrite => format!("{}\n", sentence(device, ack)),
            () => {
                let line = if is_settled(ack) { format!("{}\n", sentence(device, ack)) } else { String::new() };
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
        let row = |o: &Outcome| json!({"device": o.device, "app": o.app, "state": o.ack.as_ref().map(|a| a.state), "good": o.is_good()});
        match print::json(&json!({"outcomes": outcomes.iter().map(row).collect::<Vec<_>>()})) {
            Err(e) if e.is_closed() => {}
            other => other?,
        }
    }
    let apps: BTreeSet<&str> = orders.iter().map(|o| o.app.as_str()).collect();
    let what = format!("cannot {} {}", call.verb.name, apps.into_iter().collect::<Vec<_>>().join(", "));
    let bad: Vec<&Outcome> = outcomes.iter().filter(|o| !o.is_good()).collect();
    let more = if bad.len() > 1 { format!(", and {} more", bad.len() - 1) } else { String::new() };
    if let Some((device, ack)) = bad.iter().find(|o| !o.is_open()).and_then(|o| Some((&o.device, o.ack.as_ref()?))) {
        return Err(Error::new(Code::Failed, format!("{what}: {}{more}", sentence(device, ack))));
    }
    let late = |why: String| Error::new(Code::Unavailable, format!("{what}: {why} within {} s{more}", timeout.as_secs_f32()));
    match (bad.first(), followed.iter().find_map(Followed::too_few)) {
        (Some(Outcome { device, ack: None, .. }), _) => Err(hinted(late(format!("{device} did not answer")), session, followed, device)),
        (Some(Outcome { device, ack: Some(ack), .. }), _) => {
            Err(hinted(late(format!("{device} was not done, only {},", ack.state)), session, followed, device))
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
