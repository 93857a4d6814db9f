//! A node as a QEMU command line. Pure: the same plan and paths give the same arguments, each time its power comes on.
//! Its boot drive is a file; its data drives are sockets at which the lab's drives answer (docs/power.md).
//!
//! Invariants: no default devices, no display, no configuration files of the user; the only network besides the
//! fabric's sockets is the out-of-band NIC, restricted to one forwarded port on loopback. Secrets are passed by file,
//! never as arguments. The machine stands still until it is told to go on: its cables are as they should be before its first
//! instruction.

use super::file::LabFile;
use super::plan::{DriveRole, NodePlan};
use crate::accel::Accel;
use crate::image::NodeImage;
use ::vm::arguments::{Arguments, value};
use api::AGENT_PORT;
use fabric::SocketError;
use model::DriveSerial;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The address that QEMU's user networking gives its guest, and the prefix length (QEMU's `net/slirp.c`).
pub(crate) const OUT_OF_BAND_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);

/// What every node's kernel is told. `no_timer_check` (the kernel's `kernel-parameters.txt`): at boot it else counts timer
/// interrupts over a few milliseconds, and panics ("IO-APIC + timer doesn't work!") where a busy host runs an emulated
/// processor too little for them to come. Under KVM the kernel leaves that out by itself.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 no_timer_check possible_cpus=1";

/// One processor, in a machine that could have two: a translator that knows of one alone leaves the guest's memory barriers out (QEMU 7.2, `tcg_gen_mb`),
/// although devices run in a thread of their own. Then a guest's store to a shared doorbell may pass its load of the other side's index, the device is
/// not told, and I/O waits until the guest gives it up, half a minute later. With `possible_cpus=1` the guest still has one.
const PROCESSORS: &str = "1,maxcpus=2";

/// What a node starts from.
#[derive(Debug, Clone)]
pub(crate) struct BootFiles {
    /// The kernel, an ELF file that QEMU boots directly.
    pub(crate) kernel: PathBuf,
    /// The initial ramdisk.
    pub(crate) initrd: PathBuf,
    /// Appended to the kernel's command line.
    pub(crate) kernel_arguments: String,
}

impl BootFiles {
    /// The image, started as the lab file says.
    pub(crate) fn new(image: &NodeImage, file: &LabFile) -> Self {
        let (kernel, initrd) = (image.kernel.clone(), image.initrd.clone());
        Self { kernel, initrd, kernel_arguments: file.boot.kernel_arguments.clone() }
    }
}

/// The folders of what outlives a lab.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The consoles' logs.
    pub consoles: &'a Path,
    /// The workloads' records.
    pub records: &'a Path,
}

/// The files of one node in the lab's directory.
#[derive(Debug, Clone)]
pub(crate) struct NodeFiles {
    dir: PathBuf,
    number: usize,
    /// What the serial console said; part of the report.
    pub(crate) console: PathBuf,
    /// What the node's workload told of; part of the report, so that it outlives node and lab.
    pub(crate) records: PathBuf,
}

impl NodeFiles {
    /// The files of a node in the lab's directory; what it leaves behind goes elsewhere.
    pub(crate) fn new(dir: &Path, node: &NodePlan, kept: Kept<'_>) -> Self {
        let console = kept.consoles.join(format!("{}.log", node.name));
        let records = kept.records.join(format!("{}.records", node.name));
        Self { dir: dir.to_owned(), number: node.number, console, records }
    }

    /// QEMU's control socket.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.dir.join(format!("n{}.qmp", self.number))
    }

    /// The port through which commands are run on the node.
    pub(crate) fn hands(&self) -> PathBuf {
        self.dir.join(format!("n{}.hands", self.number))
    }

    /// What the node is told at boot: identity and key.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join(format!("n{}.json", self.number))
    }

    /// A drive's content.
    pub(crate) fn drive(&self, index: usize) -> PathBuf {
        self.dir.join(format!("n{}.drive{index}", self.number))
    }

    /// Where a data drive answers.
    pub(crate) fn drive_socket(&self, index: usize) -> PathBuf {
        self.dir.join(format!("n{}.drive{index}.nbd", self.number))
    }

    /// What QEMU itself said.
    pub(crate) fn output(&self) -> PathBuf {
        self.dir.join(format!("n{}.log", self.number))
    }
}

/// QEMU's arguments for a node. `port` is the loopback port that leads to the agent.
pub(crate) fn arguments(
    node: &NodePlan,
    files: &NodeFiles,
    boot: &BootFiles,
    accel: &Accel,
    port: u16,
) -> Result<Vec<String>, SocketError> {
    let mut args = Arguments::default();
    args.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot").flag("-S");
    args.pair("-name", format!("guest={},debug-threads=on", node.name));
    args.pair("-display", "none").pair("-machine", "q35,vmport=off,graphics=off");
    match accel {
        Accel::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
        Accel::Tcg { .. } => args.pair("-accel", "tcg,tb-size=128").pair("-cpu", "max"),
    };
    args.pair("-smp", PROCESSORS).pair("-m", node.memory_mib.to_string());
    // Not lists of options: here a comma is just one.
    args.pair("-kernel", boot.kernel.to_string_lossy()).pair("-initrd", boot.initrd.to_string_lossy());
    args.pair("-append", format!("{KERNEL_ARGUMENTS} {}", boot.kernel_arguments).trim_end());
    args.pair("-chardev", format!("file,id=console,path={},append=on", value(&files.console)));
    args.pair("-serial", "chardev:console");
    args.pair("-qmp", format!("unix:{},server=on,wait=off", value(&files.qmp())));
    args.pair("-fw_cfg", format!("name=opt/io.twinrack/config,file={}", value(&files.config())));
    args.pair("-smbios", format!("type=1,manufacturer=twinrack,product=lab-node,serial={}", node.serial));
    args.pair("-device", "virtio-rng-pci");
    args.pair("-chardev", format!("socket,id=hands,path={},server=on,wait=off", value(&files.hands())));
    args.pair("-device", "virtio-serial-pci");
    args.pair("-device", format!("virtserialport,chardev=hands,name={}", hands::PORT_NAME));
    args.pair("-chardev", format!("file,id=records,path={},append=on", value(&files.records)));
    args.pair("-device", format!("virtserialport,chardev=records,name={}", workload::RECORDS_PORT));
    args.pair("-netdev", format!("user,id=oob,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{AGENT_PORT}"));
    args.pair(
        "-device",
        format!("virtio-net-pci,netdev=oob,id=oob-nic,mac={},romfile=", node.out_of_band_mac),
    );
    for nic in &node.nics {
        let socket = value(&fabric::socket_path(&files.dir, &nic.id)?);
        let (id, mac, speed) = (&nic.device, nic.mac, node.nic_speed_mbps);
        args.pair("-netdev", format!("stream,id={id}-net,server=off,addr.type=unix,addr.path={socket}"));
        args.pair(
            "-device",
            format!("virtio-net-pci,netdev={id}-net,id={id},mac={mac},speed={speed},duplex=full,romfile="),
        );
    }
    for (index, drive) in node.drives.iter().enumerate() {
        match drive.role {
            DriveRole::Boot => {
                let file = value(&files.drive(index));
                args.pair(
                    "-blockdev",
                    format!(
                        "driver=raw,node-name=boot{index},file.driver=file,file.filename={file},discard=unmap"
                    ),
                );
                let serial = &drive.serial;
                args.pair("-device", format!("nvme,drive=boot{index},id=boot{index}-drive,serial={serial}"));
            }
            DriveRole::Data => {
                let socket = value(&files.drive_socket(index));
                args.pair(
                    "-blockdev",
                    format!(
                        "driver=nbd,node-name=data{index},server.type=unix,server.path={socket},discard=unmap"
                    ),
                );
                // Only what is behind a port of its own can be pulled.
                let number = index + 1;
                args.pair("-device", format!("pcie-root-port,id=slot{index},chassis={number},slot={number}"));
                args.pair("-device", data_drive(index, &drive.serial));
            }
        }
    }
    Ok(args.0)
}

/// QEMU's name for a data drive's blocks.
pub(super) fn data_drive_blocks(index: usize) -> String {
    format!("data{index}")
}

/// QEMU's name for the device that a data drive is.
pub(super) fn data_drive_id(index: usize) -> String {
    format!("data{index}-drive")
}

/// A data drive as a device, as it is plugged in while the machine runs.
pub(super) fn data_drive_device(index: usize, serial: &DriveSerial) -> Value {
    json!({
        "driver": "nvme",
        "drive": data_drive_blocks(index),
        "id": data_drive_id(index),
        "bus": format!("slot{index}"),
        "serial": serial.as_str(),
    })
}

/// The same, as it is there from the beginning.
fn data_drive(index: usize, serial: &DriveSerial) -> String {
    let id = data_drive_id(index);
    format!("nvme,drive=data{index},id={id},bus=slot{index},serial={serial}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::file::DEFAULT;
    use crate::lab::plan::DrivePlan;

    fn example() -> Vec<String> {
        let node = NodePlan {
            number: 0,
            name: "a1".parse().unwrap(),
            zone: Some(0),
            serial: "TR1".into(),
            memory_mib: 384,
            nic_speed_mbps: 25000,
            out_of_band_mac: "02:00:00:00:00:01".parse().unwrap(),
            nics: vec![crate::lab::plan::NicPlan {
                adapter: "storage1".parse().unwrap(),
                mac: "02:00:00:00:00:02".parse().unwrap(),
                device: "nic0".into(),
                id: "n0.nic0".parse().unwrap(),
            }],
            drives: [("NV1", DriveRole::Boot), ("NV2", DriveRole::Data)]
                .map(|(serial, role)| DrivePlan {
                    serial: serial.parse().unwrap(),
                    role,
                    size_bytes: 1 << 20,
                })
                .into(),
        };
        let image = NodeImage {
            kernel: "/cache,1/vmlinux".into(),
            initrd: "/cache,1/initrd".into(),
            release: "6.1".into(),
            id: "i".into(),
        };
        let boot = BootFiles::new(&image, &LabFile::parse(DEFAULT).unwrap());
        let kept = Kept { consoles: Path::new("/out/console"), records: Path::new("/out/re,cords") };
        let files = NodeFiles::new(Path::new("/tmp/with,comma"), &node, kept);
        arguments(&node, &files, &boot, &Accel::Tcg { why: "x".into() }, 40001).unwrap()
    }

    #[test]
    fn a_node_is_this_command_line() {
        let lines = example().join(" ").replace(" -", "\n-");
        insta::assert_snapshot!(lines);
    }

    #[test]
    fn the_only_way_out_of_a_node_is_restricted() {
        let args = example();
        let user: Vec<&String> = args.iter().filter(|arg| arg.starts_with("user,")).collect();
        assert!(
            matches!(user[..], [only] if only.contains("restrict=on") && only.contains("tcp:127.0.0.1:"))
        );
    }
}
