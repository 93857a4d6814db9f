//! A virtual machine as a QEMU command line. Pure: the same machine and places give the same arguments.
//!
//! Invariants: nothing of it runs before it is told to go on (`-S`), whatever it is started for. Its disks are opened raw, past the page cache,
//! and an error of theirs stops the machine in place of reaching it. A shutdown of its own leaves QEMU there, so that whoever looks sees that it
//! was one. No default devices, no configuration of the user's, no process of QEMU's own (`-sandbox`).

use crate::arguments::{Arguments, text, value};
use model::{Generation, MacAddress, VmId, VmName};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The board. Pinned with its version, so that two nodes with different QEMUs have the same one and a machine can move between them (Debian 12's).
const BOARD: &str = "pc-q35-7.2";

/// Its name for what carries out its processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The node's virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What it is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// To boot from its disks.
    Run,
    /// To wait for what another node sends.
    Incoming,
    /// To go on with what was saved.
    Restore,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The block device, or a file.
    pub path: PathBuf,
    /// What it calls itself, at most 20 characters (virtio).
    pub serial: String,
}

/// Where a NIC's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// A tap of the node's, which is there already.
    Tap(String),
    /// A socket at which somebody takes them, each after its length in four bytes.
    Socket(PathBuf),
}

/// A NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its address.
    pub mac: MacAddress,
    /// Where its frames go.
    pub wire: Wire,
}

/// What that board could have and nobody uses: its firmware would look for each at every start (without KVM a quarter of the time until the first disk's sector is read).
const ABSENT: &str = "vmport=off,graphics=off,sata=off,smbus=off,smm=off,i8042=off";

/// A virtual machine as it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Which.
    pub vm: VmId,
    /// Which run of it.
    pub generation: Generation,
    /// What people call it.
    pub name: VmName,
    /// Its memory, bytes; whole mebibytes are what QEMU takes, a rest is left out.
    pub memory_bytes: u64,
    /// Its virtual processors; at least one.
    pub cores: u32,
    /// Its disks, in order: it boots from the first.
    pub disks: Vec<Disk>,
    /// Its NICs, in order.
    pub nics: Vec<Nic>,
}

/// Where everything of one virtual machine is on a node: a folder that goes when the node's power does (`/run`), as its process would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    folder: PathBuf,
}

impl Places {
    /// In a folder of its own under this one.
    pub fn new(all: &Path, vm: VmId) -> Self {
        Self { folder: all.join(vm.to_string()) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Held by its process as long as there is one.
    pub fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// The process's id.
    pub fn pid(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// What was started.
    pub fn record(&self) -> PathBuf {
        self.folder.join("record.json")
    }

    /// QEMU's control socket.
    pub fn qmp(&self) -> PathBuf {
        self.folder.join("qmp")
    }

    /// Its serial port, for one at a time.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console")
    }

    /// What its serial port has said.
    pub fn console_log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What QEMU itself has said.
    pub fn output(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }

    /// Where it takes what another node sends, or what was saved.
    pub fn incoming(&self) -> PathBuf {
        self.folder.join("incoming")
    }

    /// Where it puts what is to be saved.
    pub fn outgoing(&self) -> PathBuf {
        self.folder.join("outgoing")
    }
}

/// QEMU's arguments.
pub fn arguments(machine: &Machine, places: &Places, accel: Accel, role: Role) -> Vec<String> {
    let mut args = Arguments::default();
    args.flag("-nodefaults").flag("-no-user-config").flag("-S");
    args.pair("-name", format!("guest={},debug-threads=on", text(machine.name.as_str())));
    args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    args.pair("-machine", format!("{BOARD},{ABSENT}")).pair("-display", "none");
    match accel {
        Accel::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
        Accel::Tcg => args.pair("-accel", "tcg,tb-size=32").pair("-cpu", "max"),
    };
    args.pair("-smp", processors(machine.cores.max(1), accel));
    args.pair("-m", memory(machine.memory_bytes, accel));
    args.pair("-uuid", uuid(machine.vm));
    args.pair("-boot", "order=c,menu=off,strict=on");
    // Off is for whoever looks to see, and for us to clear away.
    args.pair("-action", "reboot=reset,shutdown=pause,panic=pause,watchdog=reset");
    args.pair("-qmp", format!("unix:{},server=on,wait=off", value(&places.qmp())));
    let (console, log) = (value(&places.console()), value(&places.console_log()));
    args.pair(
        "-chardev",
        format!("socket,id=console,path={console},server=on,wait=off,logfile={log},logappend=on"),
    );
    args.pair("-serial", "chardev:console");
    if role != Role::Run {
        args.pair("-incoming", "defer");
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        args.pair("-blockdev", blocks(index, disk));
        let serial = text(&disk.serial);
        let errors = "rerror=stop,werror=stop";
        args.pair(
            "-device",
            format!("virtio-blk-pci,drive=disk{index},id=disk{index}-device,serial={serial},{errors},bootindex={index}"),
        );
    }
    for (index, nic) in machine.nics.iter().enumerate() {
        args.pair("-netdev", wire(index, &nic.wire));
        let mac = nic.mac;
        args.pair("-device", format!("virtio-net-pci,netdev=net{index},id=nic{index},mac={mac},romfile="));
    }
    args.0
}

/// A translator that knows of one processor alone leaves the guest's memory barriers out (QEMU 7.2, `tcg_gen_mb`), although devices run in threads of
/// their own: a doorbell is missed, and I/O hangs. In a machine that could have two they stay in.
fn processors(cores: u32, accel: Accel) -> String {
    if cores == 1 && accel == Accel::Tcg { "1,maxcpus=2".to_owned() } else { cores.to_string() }
}

/// Its memory, KiB. Of a block whose length is a multiple of 64 pages, a QEMU before 9.0 takes note of what was written a word of its bitmap at a time, and does not
/// have the translator tell of the next write to it: a page is sent as it was, and what a guest that runs writes there afterwards is missing where it goes on
/// ("physmem: Fix migration dirty bitmap coherency with TCG memory access"; `cpu_physical_memory_sync_dirty_bitmap`). Of any other block it does so page by page, and
/// as it should. So the memory of one that is translated is two pages longer than was asked, on all nodes alike.
fn memory(bytes: u64, accel: Accel) -> String {
    const ODD_KIB: u64 = 8;
    let kib = (bytes >> 20) << 10;
    format!("{}K", if accel == Accel::Tcg { kib + ODD_KIB } else { kib })
}

/// A disk's blocks. What opens a device node takes no file and the other way round.
fn blocks(index: usize, disk: &Disk) -> String {
    let driver = if disk.path.starts_with("/dev") { "host_device" } else { "file" };
    let path = value(&disk.path);
    format!(
        "driver=raw,node-name=disk{index},cache.direct=on,discard=unmap,\
         file.driver={driver},file.filename={path},file.aio=threads,file.cache.direct=on"
    )
}

fn wire(index: usize, wire: &Wire) -> String {
    match wire {
        Wire::Tap(name) => {
            format!("tap,id=net{index},ifname={},script=no,downscript=no,vhost=off", text(name))
        }
        Wire::Socket(path) => {
            format!("stream,id=net{index},server=off,addr.type=unix,addr.path={}", value(path))
        }
    }
}

/// The same one for a virtual machine wherever it runs. Version 8 of RFC 9562: its own bits.
fn uuid(vm: VmId) -> String {
    format!("74776e72-7261-8636-8b00-{:012x}", vm.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(role: Role, accel: Accel) -> String {
        let machine = Machine {
            vm: VmId(7),
            generation: Generation(3),
            name: "db, one".parse().unwrap(),
            memory_bytes: 64 << 20,
            cores: 2,
            disks: vec![
                Disk { path: "/dev/mapper/twinrack-volume-3".into(), serial: "volume-3".into() },
                Disk { path: "/srv/a,b.raw".into(), serial: "volume-4".into() },
            ],
            nics: vec![
                Nic { mac: "02:00:00:00:00:01".parse().unwrap(), wire: Wire::Tap("vm7n0".into()) },
                Nic { mac: "02:00:00:00:00:02".parse().unwrap(), wire: Wire::Socket("/run/a,b".into()) },
            ],
        };
        let places = Places::new(Path::new("/run/twin,rack/vm"), machine.vm);
        arguments(&machine, &places, accel, role).join(" ").replace(" -", "\n-")
    }

    #[test]
    fn a_machine_is_this_command_line() {
        insta::assert_snapshot!(example(Role::Run, Accel::Tcg));
    }

    #[test]
    fn whatever_it_is_started_for_nothing_of_it_runs_by_itself() {
        for role in [Role::Run, Role::Incoming, Role::Restore] {
            let lines = example(role, Accel::Kvm);
            assert!(lines.lines().any(|line| line == "-S"));
            assert_eq!(lines.contains("-incoming defer"), role != Role::Run);
            assert!(lines.contains("-accel kvm\n-cpu host\n"));
        }
    }

    #[test]
    fn the_memory_of_one_that_is_translated_is_not_looked_at_in_words_of_pages() {
        assert_eq!(memory((64 << 20) + 5, Accel::Kvm), "65536K");
        for mib in 1..=512 {
            let kib: u64 = memory(mib << 20, Accel::Tcg).trim_end_matches('K').parse().unwrap();
            assert!(kib >= mib << 10 && kib.is_multiple_of(8) && !kib.is_multiple_of(64 * 4), "{kib}");
        }
    }

    #[test]
    fn one_processor_alone_keeps_its_barriers() {
        assert_eq!(processors(1, Accel::Tcg), "1,maxcpus=2");
        assert_eq!(processors(2, Accel::Tcg), "2");
        assert_eq!(processors(1, Accel::Kvm), "1");
    }
}
