//! From a request to the end of `/bin/true`: Wherry through keeper, the floor, crun, runc and LXC, in turns on the same root file system.

use crate::floor::{Floor, cpu_of_children};
use crate::harness::device::{hierarchies, remove_groups};
use crate::harness::{Device, Value, bundle, json, layout};
use crate::table::{Budget, Row, Table, median};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use wherry::ipc::{Conn, Reply, Request, Scope};
use wherry::sys::process::Ended;

/// What one round takes: time on the clock, and on the CPU in all processes that were waited for.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// On the clock.
    pub wall: Duration,
    /// On the CPU, user and system.
    pub cpu: Duration,
}

/// Who starts containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Floor,
    Wherry,
    Crun,
    Runc,
    Lxc,
}

const ALL: [Who; 5] = [Who::Floor, Who::Wherry, Who::Crun, Who::Runc, Who::Lxc];

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Floor => "the floor: clone into the namespaces, pivot_root, exec",
            Self::Wherry => "Wherry, through keeper",
            Self::Crun => "crun, without control groups",
            Self::Runc => "runc",
            Self::Lxc => "LXC (lxc-start)",
        }
    }
}

/// Seen over all rounds: the median on the clock, the mean on the CPU, and of Wherry also the median until all payloads run.
#[derive(Default)]
struct Seen {
    wall: Vec<f64>,
    cpu: Vec<f64>,
    exec: Vec<f64>,
}

impl Seen {
    fn cpu(&self) -> f64 {
        self.cpu.iter().sum::<f64>() / self.cpu.len() as f64
    }
}

/// Measures, and adds the rows.
pub fn measure(table: &mut Table, counts: &[usize], rounds: impl Fn(usize) -> usize) {
    let device = Device::new();
    let mut stand = Stand::new(&device, counts);
    for &many in counts {
        let seen = stand.compare(many, rounds(many));
        add_rows(table, many, &seen);
    }
    table.notes.extend([
        format!("starts: median of {} rounds (on the clock; mean on the CPU), the five in turns, all on the same root file system", rounds(1)),
        "Wherry adds to the floor: overlay, /proc, /sys and /dev, masks, control groups with limits in every hierarchy, a system call filter, \
         output to a ring, records, and a pid 1 of its own"
            .into(),
        "crun gets a mount namespace that shows v2 only, which has no controllers on a hybrid machine, and no cgroup manager; runc and LXC make \
         control groups below `wherry`; none of the three has a system call filter"
            .into(),
    ]);
}

fn add_rows(table: &mut Table, many: usize, seen: &[Seen]) {
    let of = |who: Who| &seen[ALL.iter().position(|w| *w == who).unwrap()];
    let times = if many == 1 { "start to exit of /bin/true".into() } else { format!("{many} at once, to the exit of the last") };
    for who in ALL {
        let row = Row::new(format!("{times}: {}", who.name()), median(of(who).wall.clone()), "ms");
        table.rows.push(Row { cpu: Some(of(who).cpu()), ..row });
    }
    if many == 1 {
        table.rows.push(Row::new("request to exec of /bin/true: Wherry, through keeper", median(of(Who::Wherry).exec.clone()), "ms"));
    }
    for (other, name, budget) in
        [(Who::Floor, "the floor", Budget::Aim(2.0, 1.5)), (Who::Crun, "crun", Budget::AtMost(0.5)), (Who::Lxc, "LXC", Budget::AtMost(0.5))]
    {
        let wall = median(of(Who::Wherry).wall.clone()) / median(of(other).wall.clone());
        let row = Row::new(format!("{times}: Wherry to {name}"), wall, "×");
        table.rows.push(Row { cpu: Some(of(Who::Wherry).cpu() / of(other).cpu()), ..row }.within(budget));
    }
}

struct Stand<'a> {
    device: &'a Device,
    root: PathBuf,
    floor: Floor,
}

impl<'a> Stand<'a> {
    fn new(device: &'a Device, counts: &[usize]) -> Self {
        for &many in counts {
            apps(many).iter().for_each(|app| device.applied(app));
        }
        let root = only_layer(&device.dir.join("data/layers"));
        fs::create_dir(device.dir.join("bundle")).unwrap();
        let floor = Floor::new(&root);
        let stand = Self { device, root, floor };
        hierarchies().iter().filter(|h| h.join("cpuset.cpus").exists()).for_each(|h| allow_cpus(h, &stand.group()));
        stand
    }

    /// In turns, so that what else the machine does hits all alike. One round first that does not count.
    fn compare(&mut self, many: usize, rounds: usize) -> Vec<Seen> {
        let mut seen: Vec<Seen> = ALL.iter().map(|_| Seen::default()).collect();
        for round in 0..=rounds {
            for turn in 0..ALL.len() {
                // Each comes after each other one as often: what the kernel still clears away of one is paid by the next.
                let who = (round + turn) % ALL.len();
                let (cost, exec) = self.once(ALL[who], many);
                let seen = &mut seen[who];
                if round > 0 {
                    let ms = |d: Duration| d.as_secs_f64() * 1e3;
                    seen.wall.push(ms(cost.wall));
                    seen.cpu.push(ms(cost.cpu));
                    seen.exec.extend(exec.map(ms));
                }
            }
        }
        seen
    }

    fn once(&mut self, who: Who, many: usize) -> (Cost, Option<Duration>) {
        match who {
            Who::Floor => (self.floor.run(many), None),
            Who::Wherry => {
                let (cost, exec) = self.wherry(many);
                (cost, Some(exec))
            }
            Who::Crun => {
                let commands = self.commands(many, Self::crun);
                (in_a_v2_view(|| together(commands)), None)
            }
            Who::Runc => (together(self.commands(many, Self::runc)), None),
            Who::Lxc => (together(self.commands(many, Self::lxc)), None),
        }
    }

    fn wherry(&mut self, many: usize) -> (Cost, Duration) {
        let before = cpu_of(self.device.keeper());
        let socket = self.device.dir.join("run/control.sock");
        let apps: Vec<(Conn, Scope)> =
            names(many).into_iter().map(|app| (client(&socket), Scope { app: app.parse().unwrap(), container: None })).collect();
        let start = Instant::now();
        ask(&apps, Request::Start, &Reply::Done);
        let exec = start.elapsed();
        ask(&apps, Request::Wait, &Reply::Exited(Ended::Code(0)));
        let wall = start.elapsed();
        // Behind the answer: what keeper clears away, so that nobody else's round pays for it.
        std::thread::sleep(Duration::from_millis(20 + many as u64));
        (Cost { wall, cpu: cpu_of(self.device.keeper()) - before }, exec)
    }

    fn commands(&mut self, many: usize, command: fn(&Self, &str) -> Command) -> Vec<Command> {
        (0..many).map(|n| command(self, &format!("{}-{n}", self.device.id))).collect()
    }

    fn group(&self) -> String {
        format!("wherry/others-{}", self.device.id)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        let bundle = self.device.dir.join("bundle").join(id);
        if !bundle.exists() {
            fs::create_dir(&bundle).unwrap();
            let mut config = bundle::config(&self.root, &["/bin/true"]);
            config["linux"]["cgroupsPath"] = format!("/{}/{id}", self.group()).into();
            fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        }
        bundle
    }

    fn oci(&self, mut command: Command, id: &str) -> Command {
        let bundle = self.bundle(id);
        // Not /dev/null: crun gives its standard input to the container's user, and that would be the host's.
        command.stdin(File::open(bundle.join("config.json")).unwrap());
        command.arg("--root").arg(self.device.dir.join("others")).arg("run").arg("--bundle").arg(bundle).arg(id);
        command
    }

    fn crun(&self, id: &str) -> Command {
        let mut command = Command::new("crun");
        command.arg("--cgroup-manager=disabled");
        self.oci(command, id)
    }

    fn runc(&self, id: &str) -> Command {
        self.oci(Command::new("runc"), id)
    }

    fn lxc(&self, id: &str) -> Command {
        let config = self.device.dir.join("lxc.conf");
        let text = format!(
            "lxc.rootfs.path = dir:{}\nlxc.uts.name = box\nlxc.init.cmd = /bin/true\nlxc.mount.auto = proc:mixed sys:ro\nlxc.autodev = 1\n\
             lxc.net.0.type = empty\nlxc.pty.max = 0\nlxc.tty.max = 0\nlxc.console.path = none\nlxc.cgroup.dir = {}\n",
            self.root.display(),
            self.group()
        );
        if !config.exists() {
            fs::write(&config, text).unwrap();
        }
        let mut command = Command::new("lxc-start");
        command.args(["-F", "-n", id, "-P"]).arg(self.device.dir.join("others")).arg("-f").arg(config);
        command
    }
}

/// A new v1 cpuset group lets nothing run until it has CPUs and memory nodes, and LXC gives some only to the groups that it makes itself.
fn allow_cpus(hierarchy: &Path, group: &str) {
    let mut dir = hierarchy.to_owned();
    for part in group.split('/') {
        let above = dir.clone();
        dir.push(part);
        let _ = fs::create_dir(&dir);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(dir.join(file), fs::read(above.join(file)).unwrap()).unwrap();
        }
        // What is made below takes them over.
        fs::write(dir.join("cgroup.clone_children"), "1").unwrap();
    }
}

/// Starts all and waits for the last.
fn together(mut commands: Vec<Command>) -> Cost {
    let (start, before) = (Instant::now(), cpu_of_children());
    let children: Vec<Child> = commands.iter_mut().map(|c| c.spawn().expect("crun, runc and lxc are installed")).collect();
    for (mut child, command) in children.into_iter().zip(commands) {
        assert!(child.wait().unwrap().success(), "{command:?}");
    }
    Cost { wall: start.elapsed(), cpu: cpu_of_children() - before }
}

impl Drop for Stand<'_> {
    fn drop(&mut self) {
        for hierarchy in hierarchies() {
            remove_groups(&hierarchy.join(self.group()));
            // Only where nobody else has one.
            let _ = fs::remove_dir(hierarchy.join("wherry"));
        }
    }
}

/// Most containers of one app.
const MOST: usize = 8;

fn names(many: usize) -> Vec<String> {
    (0..many.div_ceil(MOST)).map(|n| format!("true{many}-{n}")).collect()
}

/// As many containers in as few apps as that takes.
fn apps(many: usize) -> Vec<Value> {
    let one = json!({"image": {"ref": layout("plain")}, "command": ["/bin/true"], "restart": {"policy": "no"}});
    let app = |(n, name): (usize, String)| {
        let containers: serde_json::Map<String, Value> =
            (n * MOST..many.min((n + 1) * MOST)).map(|n| (format!("c{n}"), one.clone())).collect();
        json!({"wherry": 1, "app": name, "containers": containers})
    };
    names(many).into_iter().enumerate().map(app).collect()
}

/// The same of all apps, and the answer of each.
fn ask(apps: &[(Conn, Scope)], request: fn(Scope) -> Request, answer: &Reply) {
    for (client, scope) in apps {
        client.send(&request(scope.clone())).unwrap();
    }
    for (client, _) in apps {
        assert_eq!(client.recv().unwrap().as_ref(), Some(answer));
    }
}

/// The directory of the one layer in the store.
fn only_layer(layers: &Path) -> PathBuf {
    let only = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).expect("a layer is in the store");
    only(&only(layers))
}

fn client(path: &Path) -> Conn {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    Conn::new(fd)
}

/// Of a process and all its children that it has waited for; the kernel counts in nanoseconds and tells hundredths of a second.
fn cpu_of(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<i64> = stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|f| f.parse().ok()).collect();
    // Fields 14 to 17; the third, the state, is no number.
    Duration::from_millis(fields[10..14].iter().sum::<i64>() as u64 * 10)
}

/// In a mount namespace of its own that has no v1 hierarchy's neighbour: crun refuses a hybrid whose v2 tree has a controller of its own.
fn in_a_v2_view<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            // Where v2 is all there is, nothing hangs there.
            let _ = umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH);
            act()
        });
        inside.join().unwrap()
    })
}
