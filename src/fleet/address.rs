//! Whom a command is for: devices, a group, or all that a selector means.

use super::args::{Call, id};
use super::seen::Fleet;
use super::select::Selector;
use crate::exit::{Code, Error};
use crate::manifest::{Id, Whom};
use std::time::Duration;

/// Whom a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// These devices, each by its own topic.
    Devices(Vec<Id>),
    /// A group, by the group's topic.
    Group(Id),
    /// The devices that a selector means now, each by its own topic.
    Where(Selector),
}

impl Address {
    /// What `--device`, `--group` and `--where` say; `None` without any.
    ///
    /// # Errors
    /// Two of them, or a bad value.
    pub fn of(call: &Call) -> Result<Option<Self>, Error> {
        let devices = call.values("device")?.iter().map(|word| id("device", word)).collect::<Result<Vec<_>, _>>()?;
        let group = call.value("group")?.map(|word| id("group", &word)).transpose()?;
        let selector = call.parsed("where", str::parse)?;
        let given = [!devices.is_empty(), group.is_some(), selector.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(Error::usage("only one of --device, --group and --where can say whom it is for"));
        }
        let devices = (!devices.is_empty()).then(|| Self::Devices(unique(devices)));
        Ok(devices.or(group.map(Self::Group)).or(selector.map(Self::Where)))
    }

    /// Whom a document itself names.
    pub fn named(whom: &Whom) -> Self {
        match whom {
            Whom::Device(id) => Self::Devices(vec![id.clone()]),
            Whom::Group(id) => Self::Group(id.clone()),
        }
    }

    /// Whom it means in this fleet, at `now`.
    ///
    /// # Errors
    /// Nobody.
    pub fn resolve(&self, fleet: &Fleet, now: Duration) -> Result<Vec<Whom>, Error> {
        let found: Vec<Whom> = match self {
            Self::Devices(ids) => ids.iter().cloned().map(Whom::Device).collect(),
            Self::Group(id) => vec![Whom::Group(id.clone())],
            Self::Where(selector) => {
                let meant = fleet.devices.iter().filter(|(id, device)| selector.means(id, device, now));
                meant.map(|(id, _)| Whom::Device(id.clone())).collect()
            }
        };
        if found.is_empty() {
            let known = fleet.devices.len();
            return Err(Error::new(Code::Failed, format!("no device is what --where asks for, of {known} that the broker knows"))
                .hint("`wherryctl devices` shows what devices say of themselves"));
        }
        Ok(found)
    }
}

fn unique(mut ids: Vec<Id>) -> Vec<Id> {
    ids.sort();
    ids.dedup();
    ids
}
