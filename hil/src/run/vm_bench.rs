//! How long a virtual machine takes on a node, from its QEMU's start to its first words, and what it costs while it runs.
//!
//! Purpose: the part of a failover that is neither detection nor decision. The command line is the product's (`vm::machine`) but for `-S`, the guest is pulse, on a file of
//! the node's boot drive. All is timed on the node, by a shell, to a hundredth of a second.
//!
//! On failure: [`RunError`]; an accelerator with which the guest says nothing in time is told as such.

use super::session::Session;
use super::{Options, RunError, in_session};
use crate::host::QEMU;
use crate::lab::hands::HandsError;
use crate::lab::{LabError, LabNode};
use crate::progress::Progress;
use crate::ui::Ui;
use model::{Generation, MacAddress, VmId};
use pulse::format::Params;
use std::path::Path;
use std::time::Duration;
use vm::machine::{Accel, Disk, Machine, Nic, Places, Role, Wire, arguments};

/// As long as a node's hands let a command run.
const LIMIT: Duration = hands::LIMIT_MAX;
/// How long the guest may take to say something, hundredths of a second: ten times what it took when this was written.
const WORDS_MAX: &str = "3000";
/// For how long its processor time is counted, seconds.
const AT_REST_S: &str = "5";
/// Where the disk is: on a file system that can be written to past the page cache.
const DISK: &str = "/var/lib/twinrack/pulse.raw";
/// A node's memory: QEMU and its libraries are 50 MiB of its files.
pub(super) const NODE_MIB: u32 = 512;
const PARAMS: Params = Params {
    vm: 1,
    blocks_max: 1000,
    warm_blocks: 100,
    beat_ms: 50,
    flush_every: 64,
    writes_per_beat: 1,
    in_flight: 8,
    warm_percent: 50,
    seed: 1,
};

/// `$1`: how long it may take. The rest is the program. Says when it started, when its guest began, when a write was first acknowledged, all in hundredths of a second of the node's uptime,
/// and how many of them it used of the processor in how many seconds after that; or what it said last.
const TIMED: &str = r#"
b=/bin/busybox; max=$1; rest=$2; log=$3; shift 3
now() { read up idle < /proc/uptime; echo ${up%.*}${up#*.}; }
used() { read all < /proc/$p/stat; set -- ${all##*) }; echo $((${12} + ${13})); }
until_said() { until $b grep -qs "^~$1" $log; do
  [ -d /proc/$p/fd ] && [ $(($(now) - start)) -lt $max ] || { $b tail -c 300 qemu.log $log; kill -9 $p; exit 1; }
  $b usleep 10000; done; now; }
$b mkdir -p ${log%/*}; cd ${log%/*} && $b rm -f console* qmp
start=$(now)
"$@" > qemu.log 2>&1 & p=$!
began=$(until_said s) || { echo "$began"; exit 1; }
wrote=$(until_said a) || { echo "$wrote"; exit 1; }
before=$(used); $b sleep $rest; after=$(used)
kill -9 $p; wait $p
echo $start $began $wrote $((after - before))
"#;

/// One start.
#[derive(Debug, Clone, Copy)]
pub struct VmStart {
    /// Until the guest's first words.
    pub began: Duration,
    /// Until its first write was acknowledged.
    pub wrote: Duration,
    /// What it used of a processor while it ran, percent of one.
    pub used_percent: u32,
}

/// What was measured.
#[derive(Debug)]
pub struct VmBench {
    /// What ran the node.
    pub machine: String,
    /// Round by round, with the node's translator; or what was seen in place of a start.
    pub tcg: Result<Vec<VmStart>, String>,
    /// With the node's KVM; or what was seen in its place.
    pub kvm: Result<Vec<VmStart>, String>,
}

/// Boots a lab and measures on its first node.
pub async fn bench_vm(options: Options, rounds: u32, ui: &Ui) -> Result<VmBench, RunError> {
    in_session(options, ui, async |session: &mut Session<'_>| session.measure_vm(rounds).await).await
}

/// Measures on a node of a lab that was booted.
pub(super) async fn measure(
    node: &LabNode,
    rounds: u32,
    machine: String,
    ui: &Ui,
) -> Result<VmBench, RunError> {
    let line = ui.line("bench");
    prepare(node).await?;
    line.step("virtual machines by the node's translator");
    let tcg = starts(node, Accel::Tcg, rounds).await?;
    line.step("virtual machines by the node's KVM");
    let kvm = starts(node, Accel::Kvm, rounds).await?;
    Ok(VmBench { machine, tcg, kvm })
}

/// Puts the guest on its disk, and a tap where its frames go.
async fn prepare(node: &LabNode) -> Result<(), RunError> {
    let image = pulse::image(&PARAMS).unwrap_or_default();
    let text: String = image.chunks(45).map(|piece| encode(piece) + "\n").collect();
    let disk = format!(
        "/bin/busybox base64 -d > {DISK} && /bin/busybox truncate -s 16M {DISK} && ip tuntap add vm1n0 mode tap && ip link set vm1n0 up"
    );
    let command = ["/bin/busybox", "sh", "-e", "-c", &disk];
    run(node, &command, &text).await?.map(drop).map_err(|stderr| {
        let (command, why) = (disk.clone(), "it failed".to_owned());
        let source = HandsError::NotRun { command, why, stderr };
        LabError::Hands { node: node.name().to_string(), source }.into()
    })
}

async fn starts(node: &LabNode, accel: Accel, rounds: u32) -> Result<Result<Vec<VmStart>, String>, RunError> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        match start(node, accel).await? {
            Ok(one) => all.push(one),
            Err(said) => return Ok(Err(said)),
        }
    }
    Ok(Ok(all))
}

async fn start(node: &LabNode, accel: Accel) -> Result<Result<VmStart, String>, RunError> {
    let places = Places::new(Path::new("/run/twinrack/vm-bench"), VmId(PARAMS.vm));
    let Ok(name) = "pulse".parse() else { return Ok(Err("no name".to_owned())) };
    let machine = Machine {
        vm: VmId(PARAMS.vm),
        generation: Generation(1),
        name,
        memory_bytes: 32 << 20,
        cores: 1,
        disks: vec![Disk { path: DISK.into(), serial: "volume-1".into() }],
        nics: vec![Nic { mac: MacAddress([2, 0, 0, 0, 0, 1]), wire: Wire::Tap("vm1n0".into()) }],
    };
    let log = places.console_log();
    let log = log.to_string_lossy();
    let mut argv = vec!["/bin/busybox", "sh", "-c", TIMED, "sh", WORDS_MAX, AT_REST_S, &log, QEMU.file];
    // Nobody is there to let it run.
    let arguments = arguments(&machine, &places, accel, Role::Run);
    argv.extend(arguments.iter().map(String::as_str).filter(|argument| *argument != "-S"));
    Ok(run(node, &argv, "").await?.and_then(|said| read(&said).ok_or(said)))
}

/// What a command said; or, if it ended badly, that.
async fn run(node: &LabNode, argv: &[&str], input: &str) -> Result<Result<String, String>, RunError> {
    let mut hands = node.hands_or_lab_error().await?;
    let output = hands.run_with(argv, input, LIMIT).await;
    let output = output.map_err(|source| LabError::Hands { node: node.name().to_string(), source })?;
    let said = format!("{}{}", output.stdout, output.stderr).trim().to_owned();
    Ok(if output.status == 0 { Ok(said) } else { Err(said) })
}

/// The four numbers that [`TIMED`] says.
fn read(said: &str) -> Option<VmStart> {
    let numbers: Vec<u64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [start, began, wrote, used] = numbers[..] else { return None };
    let since = |at: u64| Some(Duration::from_millis(at.checked_sub(start)? * 10));
    let rest: u64 = AT_REST_S.parse().ok()?;
    Some(VmStart {
        began: since(began)?,
        wrote: since(wrote)?,
        used_percent: u32::try_from(used / rest).ok()?,
    })
}

/// Base64 (RFC 4648), which a shell can read.
fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let piece = |three: &[u8]| {
        let word =
            three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit = |at: usize| {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize];
            char::from(if at <= three.len() { digit } else { b'=' })
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_the_node_is_base64() {
        let all = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| encode(text.as_bytes()));
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn a_round_is_four_numbers() {
        let one = read("100 350 362 60").unwrap();
        assert_eq!((one.began, one.wrote), (Duration::from_millis(2500), Duration::from_millis(2620)));
        assert_eq!(one.used_percent, 12);
        assert!(read("100 350 362").is_none() && read("100 90 95 1").is_none());
    }
}
