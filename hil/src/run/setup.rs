//! Everything of a run that can be decided before anything is started.

use super::RunError;
use crate::lab::file::{self as lab_file, LabFile};
use crate::lab::{self, LabError, PlanError};
use crate::seeded;
use crate::suite::{Set, Suite};
use model::{ClusterSpec, DeploymentMode, Shape, Wiring};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use template::{ReadOptions, Reading, Source};

/// The templates that come with the harness.
const TEMPLATES: [(&str, &str); 4] = [
    ("1+1", include_str!("../../templates/1+1.toml")),
    ("2+2", include_str!("../../templates/2+2.toml")),
    ("3+3", include_str!("../../templates/3+3.toml")),
    ("4+4", include_str!("../../templates/4+4.toml")),
];

/// The event log, by which the folder of a run is known.
pub(super) const EVENTS: &str = "events.jsonl";
/// The folder of the nodes' consoles.
pub(super) const CONSOLES: &str = "console";
/// The folder of what the nodes' workloads told of.
pub(super) const RECORDS: &str = "records";
/// Everything else that a run writes.
const REPORT_FILES: [&str; 5] = [EVENTS, crate::report::CABLING, "summary.json", "junit.xml", "report.html"];

/// The shape of a plain run: the smallest one in which a room has a majority to tell who is wrong.
const DEFAULT_SHAPE: &str = "2+2";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The workspace's root.
    pub root: PathBuf,
    /// The program that has the harness's hidden commands.
    pub program: PathBuf,
    /// The shape, for a built-in template.
    pub shape: Option<Shape>,
    /// How the lab is wired, for a built-in template or one that does not say.
    pub wiring: Option<Wiring>,
    /// A template of one's own.
    pub template: Option<PathBuf>,
    /// Rules of the template to override.
    pub overrides: Vec<String>,
    /// The ARM template that the parameters file is for.
    pub arm_template: Option<PathBuf>,
    /// Suites by name; none: the set.
    pub suites: Vec<String>,
    /// Which set, when no suite is named.
    pub set: Set,
    /// The seed; none: drawn now.
    pub seed: Option<u64>,
    /// Whether the lab stays.
    pub keep: bool,
    /// Where the report goes; none: `target/hil/<run>`.
    pub out: Option<PathBuf>,
    /// A lab file of one's own.
    pub lab: Option<PathBuf>,
    /// A folder with a node image that is there already.
    pub image: Option<PathBuf>,
    /// Whether to ask Debian's archive for a newer kernel.
    pub refresh_image: bool,
    /// A rule that the nodes break on purpose, by its name in [`seeded::RULES`].
    pub bug: Option<String>,
    /// Whether a person reads the errors on a terminal.
    pub colour: bool,
}

/// A run that can begin.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) options: Options,
    pub(super) spec: ClusterSpec,
    pub(super) lab_file: LabFile,
    pub(super) suites: Vec<Suite>,
    pub(super) seed: u64,
    /// The run's name.
    pub(super) run: String,
    /// When it began, RFC 3339.
    pub(super) started: String,
    /// The report's folder; [`make_folder`] makes it.
    pub(super) dir: PathBuf,
    pub(super) notes: Vec<String>,
    pub(super) replay: String,
}

pub(super) fn prepare(options: Options) -> Result<Setup, RunError> {
    let suites = Suite::select(&options.suites, options.set)?;
    let lab_text = match &options.lab {
        Some(path) => read(path)?,
        None => lab_file::DEFAULT.to_owned(),
    };
    let lab_path = || options.lab.clone().unwrap_or_else(|| "hil/labs/qemu.toml".into());
    let mut lab_file =
        LabFile::parse(&lab_text).map_err(|source| LabError::File { path: lab_path(), source })?;
    if let Some(name) = &options.bug {
        let argument = seeded::kernel_argument(name).ok_or_else(|| RunError::NoSuchRule(name.clone()))?;
        lab_file.boot.kernel_arguments.push_str(&argument);
    }
    let (mut spec, mut notes) = read_template(&options)?;
    wire(&mut spec, &options)?;
    if spec.witness.management_ip.is_none() {
        deploy::place_witness(&mut spec)?;
        let address = spec.witness.management_ip.map_or_else(String::new, |address| address.to_string());
        notes.push(format!("the template gives the witness no address; it has {address}"));
    }
    check_applicable(&suites, &spec)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..=u64::from(u32::MAX)));
    let now = jiff::Timestamp::now();
    let run = format!("{}-{seed}", now.strftime("%Y%m%dT%H%M%S"));
    let dir = match &options.out {
        Some(dir) => dir.clone(),
        None => options.root.join("target/hil").join(&run),
    };
    check_folder(&dir)?;
    let replay = replay(&options, spec.shape(), seed);
    Ok(Setup {
        started: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        options,
        spec,
        lab_file,
        suites,
        seed,
        run,
        dir,
        notes,
        replay,
    })
}

/// Sees that there is a scenario that this cluster can have: a run that looks at nothing must not be good.
fn check_applicable(suites: &[Suite], spec: &ClusterSpec) -> Result<(), RunError> {
    let mut why = String::new();
    for (suite, scenario) in suites.iter().flat_map(|suite| suite.scenarios.iter().map(move |s| (suite, s))) {
        match suite.unmet(scenario, spec) {
            None => return Ok(()),
            Some(unmet) => writeln!(why, "  {}, {}: {unmet}", suite.name, scenario.name).ok(),
        };
    }
    Err(RunError::NothingApplicable(why.trim_end().to_owned()))
}

/// Sees that the report's folder is new, empty, or that of an earlier run.
fn check_folder(dir: &Path) -> Result<(), RunError> {
    let empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if empty || dir.join(EVENTS).is_file() { Ok(()) } else { Err(RunError::NotOurs(dir.to_owned())) }
}

/// Removes what an earlier run left in the folder: a run that is killed must not be taken for that one.
fn clear_folder(dir: &Path) -> std::io::Result<()> {
    let absent_is_fine = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for file in REPORT_FILES {
        absent_is_fine(fs::remove_file(dir.join(file)))?;
    }
    absent_is_fine(fs::remove_dir_all(dir.join(CONSOLES)))?;
    absent_is_fine(fs::remove_dir_all(dir.join(RECORDS)))
}

fn read(path: &Path) -> Result<String, RunError> {
    fs::read_to_string(path).map_err(|source| RunError::Read { path: path.to_owned(), source })
}

fn read_template(options: &Options) -> Result<(ClusterSpec, Vec<String>), RunError> {
    let source = match (&options.template, options.shape) {
        (Some(_), Some(_)) => {
            return Err(RunError::Options(
                "--shape chooses a built-in template; leave it out with --template",
            ));
        }
        (Some(path), None) => {
            let source = load(path, options)?;
            match &options.arm_template {
                Some(template) => source.beside(load(template, options)?),
                None => source,
            }
        }
        (None, shape) => {
            let shape = shape.map_or_else(|| DEFAULT_SHAPE.to_owned(), |shape| shape.to_string());
            let built_in = TEMPLATES.iter().find(|(name, _)| *name == shape);
            Source::new(format!("hil/templates/{shape}.toml"), built_in.map_or("", |(_, text)| text))
        }
    };
    let reading =
        template::read(&source, &ReadOptions { overrides: options.overrides.clone() }).map_err(|error| {
            RunError::Unreadable(template::render::unreadable(Some(&source), &error, options.colour))
        })?;
    match &reading.spec {
        Some(spec) => Ok((spec.clone(), notes(spec, &reading))),
        None => Err(RunError::Rules(template::render::reading(&source, &reading, options.colour))),
    }
}

fn load(path: &Path, options: &Options) -> Result<Source, RunError> {
    let bytes = fs::read(path).map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    Source::from_bytes(&path.display().to_string(), &bytes)
        .map_err(|error| RunError::Unreadable(template::render::unreadable(None, &error, options.colour)))
}

/// Gives the cluster the wiring that was asked for. An ARM file says none, a TOML file's own word stands.
fn wire(spec: &mut ClusterSpec, options: &Options) -> Result<(), RunError> {
    let Some(wiring) = options.wiring else { return lab::check_wiring(spec).map_err(refused) };
    if options.template.is_some() && spec.wiring.is_some_and(|said| said != wiring) {
        return Err(RunError::Options(
            "the template says another wiring than --wiring; leave one of them out",
        ));
    }
    spec.wiring = Some(wiring);
    lab::check_wiring(spec).map_err(refused)
}

fn refused(error: PlanError) -> RunError {
    RunError::Lab(LabError::Plan(error))
}

/// What the reader of a report should know of the template.
fn notes(spec: &ClusterSpec, reading: &Reading) -> Vec<String> {
    let overridden = reading.diagnostics.iter().filter(|diagnostic| diagnostic.overridden);
    let mut notes: Vec<String> = overridden
        .map(|diagnostic| format!("overridden: {} ({})", diagnostic.message, diagnostic.rule))
        .collect();
    if spec.intents.iter().any(model::Intent::is_converged_storage) {
        notes.push("storage shares its NICs with other traffic, on the team: the two storage networks are no two paths".into());
    }
    if spec.mode == DeploymentMode::Validate {
        notes.push("the template asks for validation only; a lab always deploys".into());
    }
    if !reading.ignored.is_empty() {
        let count = reading.ignored.len();
        notes.push(format!(
            "{count} settings of the template have no effect here; `twinrack validate` lists them"
        ));
    }
    notes
}

/// Makes the report's folder; of a run without `--out`, `latest` points to it.
pub(super) fn make_folder(setup: &Setup) -> Result<(), RunError> {
    let (dir, is_latest) = (&setup.dir, setup.options.out.is_none());
    let folder = |source| RunError::Folder { path: dir.clone(), source };
    clear_folder(dir).map_err(folder)?;
    for part in [CONSOLES, RECORDS] {
        fs::create_dir_all(dir.join(part)).map_err(folder)?;
    }
    let (Some(parent), Some(name), true) = (dir.parent(), dir.file_name(), is_latest) else { return Ok(()) };
    // Made beside and renamed, so that `latest` always points somewhere.
    let unfinished = parent.join(format!(".latest.{}", std::process::id()));
    std::os::unix::fs::symlink(name, &unfinished).map_err(folder)?;
    fs::rename(&unfinished, parent.join("latest")).map_err(folder)
}

/// The command that does the same again.
fn replay(options: &Options, shape: Shape, seed: u64) -> String {
    let mut words = String::from("cargo xtask hil");
    let mut option = |name: &str, value: &str| {
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "+-./_".contains(c));
        let value = if plain { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) };
        write!(words, " --{name} {value}").ok();
    };
    match &options.template {
        Some(path) => option("template", &path.to_string_lossy()),
        None => option("shape", &shape.to_string()),
    }
    if let Some(path) = &options.arm_template {
        option("arm-template", &path.to_string_lossy());
    }
    if let Some(wiring) = options.wiring {
        option("wiring", &format!("{wiring:?}"));
    }
    options.overrides.iter().for_each(|rule| option("override", rule));
    options.suites.iter().for_each(|suite| option("suite", suite));
    if options.suites.is_empty() && options.set != Set::Default {
        option("set", "nightly");
    }
    for (name, path) in [("lab", &options.lab), ("image", &options.image)] {
        if let Some(path) = path {
            option(name, &path.to_string_lossy());
        }
    }
    if let Some(bug) = &options.bug {
        option("bug", bug);
    }
    option("seed", &seed.to_string());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Need;
    use std::collections::BTreeSet;

    fn options() -> Options {
        Options {
            root: PathBuf::new(),
            program: PathBuf::new(),
            shape: None,
            wiring: None,
            template: None,
            overrides: Vec::new(),
            arm_template: None,
            suites: Vec::new(),
            set: Set::Default,
            seed: None,
            keep: false,
            out: None,
            lab: None,
            image: None,
            refresh_image: false,
            bug: None,
            colour: false,
        }
    }

    #[test]
    fn every_built_in_template_is_good_and_has_its_shape() {
        for shape in Shape::ALL {
            let (spec, notes) = read_template(&Options { shape: Some(shape), ..options() }).unwrap();
            assert_eq!((spec.shape(), notes), (shape, Vec::<String>::new()));
        }
    }

    #[test]
    fn the_replay_names_everything_that_was_chosen() {
        let options = Options {
            template: Some("my lab.json".into()),
            arm_template: Some("azuredeploy.json".into()),
            wiring: Some(Wiring::C),
            overrides: vec!["net.x".into()],
            suites: vec!["wiring".into(), "tor-loss".into()],
            lab: Some("l.toml".into()),
            ..options()
        };
        assert_eq!(
            replay(&options, Shape::ALL[0], 7),
            "cargo xtask hil --template 'my lab.json' --arm-template azuredeploy.json --wiring C --override net.x --suite wiring --suite tor-loss --lab l.toml --seed 7"
        );
    }

    #[test]
    fn a_run_that_could_show_nothing_is_refused_with_the_reasons() {
        let spec = |shape| read_template(&Options { shape: Some(shape), ..options() }).unwrap().0;
        let mut suites = Suite::select(&["tor-loss".into()], Set::Default).unwrap();
        suites[0].scenarios.retain(|scenario| scenario.needs.contains(&Need::PeersInRoom));
        assert!(check_applicable(&suites, &spec(Shape::ALL[1])).is_ok());
        let error = check_applicable(&suites, &spec(Shape::ALL[0])).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("one node in a room"), "{error}");
    }

    #[test]
    fn an_earlier_report_goes_and_anything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        assert!(check_folder(dir.path()).is_ok() && check_folder(&path("new")).is_ok());
        fs::write(path("precious"), "").unwrap();
        assert_eq!(check_folder(dir.path()).unwrap_err().exit_code(), 2);
        for name in REPORT_FILES {
            fs::write(path(name), "").unwrap();
        }
        for name in [CONSOLES, RECORDS] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("a1"), "").unwrap();
        }
        assert!(check_folder(dir.path()).is_ok());
        clear_folder(dir.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["precious"]);
    }

    #[test]
    fn every_shape_can_have_every_wiring() {
        for shape in Shape::ALL {
            for wiring in [Wiring::A, Wiring::B, Wiring::C, Wiring::D] {
                let options = Options { shape: Some(shape), wiring: Some(wiring), ..options() };
                let (mut spec, _) = read_template(&options).unwrap();
                wire(&mut spec, &options).unwrap();
                assert_eq!((spec.shape(), spec.wiring), (shape, Some(wiring)));
            }
        }
    }

    #[test]
    fn a_wiring_that_the_template_contradicts_or_rules_out_is_refused() {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/1+1.toml");
        let asked = |wiring| Options { template: Some(template.clone()), wiring: Some(wiring), ..options() };
        let (spec, _) = read_template(&asked(Wiring::A)).unwrap();
        assert!(wire(&mut spec.clone(), &asked(Wiring::A)).is_ok());
        assert_eq!(wire(&mut spec.clone(), &asked(Wiring::B)).unwrap_err().exit_code(), 2);
        // An ARM file with one converged intent, which says no wiring.
        let mut converged = ClusterSpec { wiring: None, ..spec };
        let all: BTreeSet<_> = converged.intents.iter().flat_map(|intent| intent.traffic.clone()).collect();
        converged.intents.truncate(1);
        converged.intents[0].traffic = all;
        assert!(wire(&mut converged.clone(), &asked(Wiring::B)).is_ok());
        let error = wire(&mut converged, &asked(Wiring::D)).unwrap_err();
        assert!(matches!(error, RunError::Lab(LabError::Plan(PlanError::ConvergedWithoutRoomLink))));
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_shape_beside_a_template_is_refused() {
        let options = Options { template: Some("t.toml".into()), shape: Some(Shape::ALL[0]), ..options() };
        assert_eq!(read_template(&options).unwrap_err().exit_code(), 2);
    }
}
