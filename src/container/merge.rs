//! Manifest over image configuration, into one [`Spec`]; pure. The rules are those of `docker run`.

use super::{Spec, caps};
use crate::image::Config;
use crate::ipc::Failure;
use crate::manifest::Container;
use crate::protocol::Reason;

/// SIGTERM's number, the same on every Linux architecture.
const SIGTERM: i32 = 15;

/// What the container is: the manifest where it speaks, else the image.
///
/// # Errors
/// `Exec` when neither names a program.
pub fn build(wanted: &Container, image: &Config, hostname_default: &str) -> Result<Spec, Failure> {
    let workdir = wanted.workdir.as_deref().unwrap_or(&image.workdir);
    Ok(Spec {
        argv: argv(wanted, image)?,
        env: if wanted.terminal { join_env(&env(wanted, image), &[], true) } else { env(wanted, image) },
        workdir: if workdir.starts_with('/') { workdir.to_owned() } else { format!("/{workdir}") },
        user: wanted.user.clone().unwrap_or_else(|| image.user.clone()),
        hostname: wanted.hostname.clone().unwrap_or_else(|| hostname_default.to_owned()),
        capabilities: caps::adjusted(&wanted.security.cap_add, &wanted.security.cap_drop),
        seccomp: wanted.security.seccomp,
        no_new_privileges: wanted.security.no_new_privileges,
        readonly: wanted.rootfs.readonly,
        upper: wanted.rootfs.upper,
        mounts: wanted.mounts.clone(),
        network: wanted.network,
        rlimits: wanted.rlimits.clone(),
        init: wanted.init,
        resources: wanted.resources.clone(),
        ambient: caps::bits(&wanted.security.cap_add),
        files: wanted.files.clone(),
        terminal: wanted.terminal,
        stdin: wanted.stdin,
    })
}

/// Number of the signal that asks the container to stop: the manifest's, else the image's, else SIGTERM.
pub fn stop_signal(wanted: &Container, image: &Config) -> i32 {
    wanted.stop.signal.or(image.stop_signal).unwrap_or(SIGTERM)
}

/// `command` replaces the entrypoint, and the image's cmd goes with it, since that was written for the old one; `args` replaces the cmd.
fn argv(wanted: &Container, image: &Config) -> Result<Vec<String>, Failure> {
    let entrypoint = wanted.command.as_ref().unwrap_or(&image.entrypoint);
    let cmd: &[String] = match (&wanted.args, &wanted.command) {
        (Some(args), _) => args,
        (None, Some(_)) => &[],
        (None, None) => &image.cmd,
    };
    let argv: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    if argv.first().is_none_or(String::is_empty) {
        let message = "cannot tell what to run: neither the manifest (`command`, `args`) nor the image names a program";
        return Err(Failure { reason: Reason::Exec, message: message.into() });
    }
    Ok(argv)
}

/// The image's variables, overridden in place by name, then the manifest's others in their order.
fn env(wanted: &Container, image: &Config) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(image.env.len() + wanted.env.len());
    let own = wanted.env.iter().map(|(name, value)| format!("{name}={value}"));
    for entry in image.env.iter().cloned().chain(own) {
        set(&mut env, entry);
    }
    env
}

/// The container's variables with those of an exec; a terminal needs a type.
pub(crate) fn join_env(container: &[String], own: &[String], terminal: bool) -> Vec<String> {
    let mut env: Vec<String> = if terminal { vec!["TERM=xterm".to_owned()] } else { Vec::new() };
    for entry in container.iter().chain(own) {
        set(&mut env, entry.clone());
    }
    env
}

/// Adds `NAME=value`, in the place of an entry of the same name if there is one.
pub(super) fn set(env: &mut Vec<String>, entry: String) {
    let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
    let place = env.iter().position(|e| e.split_once('=').map_or(e.as_str(), |(n, _)| n) == name);
    match place {
        Some(i) => env[i] = entry,
        None => env.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Reference, Source};
    use crate::manifest::{Full, Image, Log, Network, Resources, Restart, RestartPolicy, Rootfs, Seccomp, Security, Stdin, Stop};
    use std::time::Duration;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn image() -> Config {
        Config {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["from", "image"]),
            env: strings(&["PATH=/image", "LANG=C"]),
            user: "app".into(),
            workdir: "srv".into(),
            stop_signal: Some(3),
        }
    }

    fn container() -> Container {
        Container {
            name: "c".parse().unwrap(),
            image: Image {
                reference: Reference { text: "rootfs:/x".into(), source: Source::Rootfs { path: "/x".into() } },
                digest: None,
                size: None,
                unpacked: None,
            },
            command: None,
            args: None,
            env: Vec::new(),
            user: None,
            workdir: None,
            hostname: None,
            resources: Resources::default(),
            rlimits: Vec::new(),
            security: Security { cap_add: Vec::new(), cap_drop: Vec::new(), seccomp: Seccomp::Default, no_new_privileges: true },
            rootfs: Rootfs { readonly: false, upper: 1 << 20 },
            mounts: Vec::new(),
            files: Vec::new(),
            network: Network::None,
            terminal: false,
            stdin: Stdin::None,
            log: Log { ring: 1024, full: Full::Drop, syslog: None },
            stop: Stop { signal: None, timeout: Duration::from_secs(10) },
            restart: Restart { policy: RestartPolicy::No, delay: Duration::from_secs(1), max_delay: Duration::from_secs(1) },
            init: true,
            health: None,
            after: Vec::new(),
        }
    }

    fn argv_of(command: Option<&[&str]>, args: Option<&[&str]>) -> Vec<String> {
        let wanted = Container { command: command.map(strings), args: args.map(strings), ..container() };
        build(&wanted, &image(), "h").unwrap().argv
    }

    #[test]
    fn command_replaces_the_entrypoint_and_clears_the_cmd() {
        assert_eq!(argv_of(None, None), ["/entry", "from", "image"]);
        assert_eq!(argv_of(Some(&["/own"]), None), ["/own"]);
    }

    #[test]
    fn args_replace_the_cmd_and_keep_the_entrypoint() {
        assert_eq!(argv_of(None, Some(&["a"])), ["/entry", "a"]);
        assert_eq!(argv_of(Some(&["/own"]), Some(&["a"])), ["/own", "a"]);
    }

    #[test]
    fn no_program_at_all_is_refused() {
        let empty = Config::default();
        assert_eq!(build(&container(), &empty, "h").unwrap_err().reason, Reason::Exec);
        let blank = Container { command: Some(strings(&[""])), ..container() };
        assert_eq!(build(&blank, &image(), "h").unwrap_err().reason, Reason::Exec);
    }

    #[test]
    fn a_variable_of_the_manifest_overrides_the_images_by_name() {
        let own = [("PATH", "/own"), ("A", "1"), ("A", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let wanted = Container { env: own.to_vec(), ..container() };
        assert_eq!(build(&wanted, &image(), "h").unwrap().env, ["PATH=/own", "LANG=C", "A=2"]);
    }

    #[test]
    fn the_image_speaks_where_the_manifest_is_silent() {
        let spec = build(&container(), &image(), "default-name").unwrap();
        assert_eq!((spec.user.as_str(), spec.workdir.as_str(), spec.hostname.as_str()), ("app", "/srv", "default-name"));
        assert_eq!(stop_signal(&container(), &image()), 3);
        assert_eq!(stop_signal(&container(), &Config::default()), 15);
    }

    #[test]
    fn the_manifest_wins_where_it_speaks() {
        let wanted = Container {
            user: Some("1:2".into()),
            workdir: Some("/w".into()),
            hostname: Some("own".into()),
            stop: Stop { signal: Some(2), timeout: Duration::ZERO },
            ..container()
        };
        let spec = build(&wanted, &image(), "h").unwrap();
        assert_eq!((spec.user.as_str(), spec.workdir.as_str(), spec.hostname.as_str()), ("1:2", "/w", "own"));
        assert_eq!(stop_signal(&wanted, &image()), 2);
    }

    #[test]
    fn only_capabilities_asked_for_by_name_reach_a_user_that_is_not_root() {
        let mut wanted = container();
        assert_eq!(build(&wanted, &image(), "h").unwrap().ambient, 0);
        wanted.security.cap_add = vec![::caps::Capability::CAP_NET_BIND_SERVICE];
        let spec = build(&wanted, &image(), "h").unwrap();
        assert_eq!((spec.capabilities, spec.ambient), (caps::default_set(), 1 << 10));
    }
}
