//! What a document may ask for, by who sent it. Pure.

use crate::config::Settings;
use crate::ipc::Origin;
use crate::manifest::{Body, Manifest, Mount};
use std::path::Path;

/// A document from the network may name paths of the device only below the directories that the settings list.
///
/// # Errors
/// The sentence that names the path and the setting.
pub fn check(m: &Manifest, origin: &Origin, settings: &Settings) -> Result<(), String> {
    let Body::Run(containers) = &m.body else { return Ok(()) };
    if *origin == Origin::Local {
        return Ok(());
    }
    for c in containers {
        // What is downloaded has a digest, and touches no path of the device.
        if let Some(image) = c.image.reference.source.path() {
            inside(image, &settings.import_dirs, "import_dirs").map_err(|e| format!("containers.{}.image.ref: {e}", c.name))?;
        }
        for mount in &c.mounts {
            if let Mount::Bind { source, .. } = mount {
                inside(source, &settings.bind_sources, "bind_sources").map_err(|e| format!("containers.{}.mounts: {e}", c.name))?;
            }
        }
    }
    Ok(())
}

fn inside(path: &str, allowed: &[String], setting: &str) -> Result<(), String> {
    // Component by component: /srv/www-old is not below /srv/www. `..` was refused when the path was parsed.
    if allowed.iter().any(|dir| Path::new(path).starts_with(dir)) {
        return Ok(());
    }
    Err(format!("a document from the network may not name {path}; this device allows {} (setting \"{setting}\")", list(allowed)))
}

fn list(allowed: &[String]) -> String {
    if allowed.is_empty() { "no directory".into() } else { allowed.join(", ") }
}
