//! The one recovery path: start, upgrade, panic and kill -9 all come here. What runs is found by its record, never by guessing.

use crate::container::PID_1;
use crate::ipc::What;
use crate::keeper::containers::Live;
use crate::keeper::context::Context;
use crate::keeper::lifecycle::Event;
use crate::keeper::poll::Key;
use crate::keeper::runtime::{Phase, Record, start_time};
use crate::protocol::ContainerState;
use crate::sys::fd::read_file;
use crate::sys::process::Child;
use crate::sys::signal::{pidfd_open, pidfd_send};
use nix::libc;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Takes over every container on record; ends and removes what no record vouches for.
pub fn adopt(ctx: &mut Context, now: Duration) -> io::Result<Vec<Live>> {
    let mut found = Vec::new();
    for (key, record) in ctx.runtime.records()? {
        match record {
            // One that cannot be taken over must not keep us from the others.
            Some(record) if record.boot_id == ctx.boot_id && record.phase != Phase::Intent => {
                match take_over(ctx, key.clone(), record, now) {
                    Ok(Some(live)) => found.push(live),
                    Ok(None) => discard(ctx, &key),
                    Err(e) => {
                        log::error!("cannot take over {key}: {e}");
                        discard(ctx, &key);
                    }
                }
            }
            // Of another boot, half written, or without a process: whatever its group holds never got `Go` and exits by itself.
            _ => discard(ctx, &key),
        }
    }
    ctx.runtime.tidy()?;
    end_strays(ctx, &found);
    Ok(found)
}

/// `None` for one whose start was cut off.
fn take_over(ctx: &mut Context, key: Key, record: Record, now: Duration) -> io::Result<Option<Live>> {
    let Phase::Process { pid, start } = record.phase else { return Ok(None) };
    let running = same_process(pid, start, &record.group);
    let alive = running.is_some();
    let found = || if alive { has_begun(pid, record.ready.spec.init) } else { ctx.runtime.exit_record(&key).is_some() };
    // The record of one that is stopped in the midst of its start does not say whether its program was exec'd.
    let begun = !matches!(record.life.state, ContainerState::Starting | ContainerState::Stopping) || found();
    // Keeper may have died before `Go`: then nothing of the container ran, nor ever will, and the end of its pid 1 must not pass for the payload's.
    if record.life.state == ContainerState::Starting && !begun {
        return Ok(None);
    }
    let mut live = Live::adopt(ctx, key, record, running.map(|fd| (pid, fd)))?;
    live.begun = begun;
    if alive {
        log::info!("adopted {} (pid {pid})", live.key);
        ctx.happened_to(&live.key, What::Adopted, None, format!("pid {pid}"));
        // Keeper may have died between exec and its note of it.
        live.event(ctx, Event::Started, now);
    } else {
        let how = live.how_ended(ctx, pid);
        log::info!("{} ended while keeper was away: {how:?}", live.key);
        live.ended_unseen(ctx, how, now);
    }
    Ok(Some(live))
}

/// Whether pid 1 has become the payload, or is ready to let one run.
fn has_begun(pid: i32, init: bool) -> bool {
    const MAX: usize = 64;
    if init {
        return read_file(format!("/proc/{pid}/comm"), MAX).is_ok_and(|name| name.trim_ascii_end() == PID_1.to_bytes());
    }
    // Until then it is the sealed program.
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    !program.as_os_str().as_encoded_bytes().starts_with(b"/memfd:wherry")
}

/// The pidfd of a process that is the one on record: opened first, compared second, asked last, so that the number cannot come to mean another
/// process in between.
fn same_process(pid: i32, start: u64, group: &str) -> Option<OwnedFd> {
    let pidfd = pidfd_open(pid).ok()?;
    let same = start_time(pid).is_ok_and(|s| s == start) && in_group(pid, group) && pidfd_send(&pidfd, 0).is_ok() && !is_zombie(pid);
    same.then_some(pidfd)
}

fn in_group(pid: i32, group: &str) -> bool {
    const MAX: usize = 16 * 1024;
    let text = read_file(format!("/proc/{pid}/cgroup"), MAX).unwrap_or_default();
    // `hierarchy:controllers:path`; the path may continue below the container's own group.
    String::from_utf8_lossy(&text).lines().filter_map(|l| l.splitn(3, ':').nth(2)).any(|path| {
        let below = path.trim_start_matches('/').strip_prefix(group);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn is_zombie(pid: i32) -> bool {
    const MAX: usize = 4096;
    let text = read_file(format!("/proc/{pid}/stat"), MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

fn discard(ctx: &Context, key: &Key) {
    log::warn!("{key} was never started whole: what is left of it is removed");
    let group = ctx.layout.group(&ctx.group_path(key));
    let _ = group.kill();
    if let Err(e) = ctx.runtime.forget(key) {
        log::warn!("cannot remove the runtime directory of {key}: {e}");
    }
}

/// Kills and removes groups below ours that belong to no container on record.
fn end_strays(ctx: &Context, found: &[Live]) {
    let known: BTreeSet<&str> = found.iter().map(Live::group_path).collect();
    for app in ctx.layout.children(&ctx.settings.cgroup) {
        let app = format!("{}/{app}", ctx.settings.cgroup);
        if ctx.layout.children(&app).is_empty() {
            // Keeper died between removing the last group in it and itself.
            let _ = ctx.layout.group(&app).remove();
        }
        for container in ctx.layout.children(&app) {
            let path = format!("{app}/{container}");
            if !known.contains(path.as_str()) {
                log::warn!("group {path} belongs to no container on record: it is ended");
                let group = ctx.layout.group(&path);
                let _ = group.kill();
                // Tasks die asynchronously; what stays now goes at the next start of keeper or of the container.
                let _ = group.remove();
            }
        }
    }
}

/// Ends the roles of the keeper before us (same pid, other program). They have lost their socket; what an exec runs in a container goes too.
pub fn end_old_roles(ctx: &mut Context, known: &[i32]) {
    for child in strays(known) {
        let _ = pidfd_send(&child.pidfd, libc::SIGKILL);
        ctx.reap_later(child);
    }
}

/// Waits for children whose launch died before it could name them. Without `Go` they exit by themselves; a container's pid 1 cannot end while an
/// unwaited child is in its pid namespace.
pub fn wait_for_strays(ctx: &mut Context, known: &[i32]) {
    for child in strays(known) {
        ctx.reap_later(child);
    }
}

fn strays(known: &[i32]) -> Vec<Child> {
    let unknown = children().into_iter().filter(|pid| !known.contains(pid));
    unknown.filter_map(|pid| Some(Child { pid, pidfd: pidfd_open(pid).ok()? })).collect()
}

/// Every child of ours: as the kernel lists them, or, where it lacks that list (CONFIG_PROC_CHILDREN), by everybody's parent.
fn children() -> Vec<i32> {
    const MAX: usize = 64 * 1024;
    let us = std::process::id();
    let numbers = |text: &[u8]| String::from_utf8_lossy(text).split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect();
    match read_file(format!("/proc/self/task/{us}/children"), MAX) {
        Ok(list) => numbers(&list),
        Err(_) => processes().filter(|pid| parent(*pid) == Some(us)).collect(),
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// Field 4 of proc_pid_stat(5).
fn parent(pid: i32) -> Option<u32> {
    const MAX: usize = 4096;
    let stat = read_file(format!("/proc/{pid}/stat"), MAX).ok()?;
    let text = String::from_utf8_lossy(&stat);
    text.rsplit_once(") ")?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
