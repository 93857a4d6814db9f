//! `cargo xtask test`: everything that must hold before a change lands, in the order of how soon it can fail.

use clap::Args;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Tools that cargo doesn't ship, and the versions that this project is tested with.
const NEXTEST: Tool = Tool { name: "cargo-nextest", version: "0.9.143" };
const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// What to test.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Leave out the tests that boot nodes
    #[arg(long)]
    no_lab: bool,
}

struct Tool {
    name: &'static str,
    version: &'static str,
}

pub(crate) fn run(arguments: &TestArguments) -> ExitCode {
    let started = Instant::now();
    match steps(arguments) {
        Ok(()) => {
            eprintln!("\ncargo xtask test: good, after {} s", started.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(Stop { step, code }) => {
            eprintln!("\ncargo xtask test: `{step}` failed");
            ExitCode::from(code)
        }
    }
}

/// The step that failed, and what its failure means.
struct Stop {
    step: String,
    code: u8,
}

fn steps(arguments: &TestArguments) -> Result<(), Stop> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ])?;
    cargo(&["build", "--workspace", "--quiet"])?;
    let deny = DENY.ensure()?;
    // Advisories need a database from the network; `cargo xtask test` never claims to have checked them.
    step(Command::new(deny).args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    let nextest = NEXTEST.ensure()?;
    ensure_packages()?;
    let mut tests = Command::new(nextest);
    tests.args(["nextest", "run", "--workspace", "--all-features"]);
    if arguments.no_lab {
        tests.args(["--filterset", "not binary(lab)"]);
    }
    // Doc tests first: CI reads the test runner's closing line from the end of the output.
    cargo(&["test", "--workspace", "--doc", "--quiet"])?;
    step(&mut tests)
}

/// What the report's page is looked at in, what virtual machines run in, and what makes images for them.
fn ensure_packages() -> Result<(), Stop> {
    let ui = hil::ui::Ui::new();
    let packages = [hil::host::CHROMIUM, hil::host::QEMU, hil::host::QEMU_IMG];
    hil::host::ensure_packages(&packages, &ui.line("packages")).map_err(|error| {
        eprintln!("error: {}", hil::chain(&error));
        Stop { step: "install what tests need".to_owned(), code: 69 }
    })
}

fn cargo(args: &[&str]) -> Result<(), Stop> {
    step(Command::new(env!("CARGO")).args(args))
}

/// Runs one step, saying what it is and how long it took.
fn step(command: &mut Command) -> Result<(), Stop> {
    let words: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let step = format!("cargo {}", words.join(" "));
    eprintln!("\n── {step}");
    let started = Instant::now();
    let status = command.current_dir(root()).status();
    match status {
        Ok(status) if status.success() => {
            eprintln!("── good, after {} s", started.elapsed().as_secs());
            Ok(())
        }
        Ok(_) => Err(Stop { step, code: 1 }),
        Err(error) => {
            eprintln!("cannot start it: {error}");
            Err(Stop { step, code: 69 })
        }
    }
}

impl Tool {
    /// The tool's path: of the one on the search path if that has our version, else of the project's own, which is built once.
    fn ensure(&self) -> Result<PathBuf, Stop> {
        let installed = PathBuf::from(self.name);
        if self.is(&installed) {
            return Ok(installed);
        }
        let home = root().join("target/tools");
        let path = home.join("bin").join(self.name);
        if !self.is(&path) {
            eprintln!(
                "\n── {} {} is not installed: building it into {} (once, minutes)",
                self.name,
                self.version,
                home.display()
            );
            let mut install = Command::new(env!("CARGO"));
            install.args(["install", "--locked", "--quiet", "--version", self.version, "--root"]).arg(&home);
            step(install.arg(self.name)).map_err(|stop| Stop { code: 69, ..stop })?;
        }
        Ok(path)
    }

    /// Whether a program is this tool in this version: it says so in the first words of its answer to `--version`.
    fn is(&self, program: &Path) -> bool {
        let Ok(output) = Command::new(program).arg("--version").output() else { return false };
        let said = String::from_utf8_lossy(&output.stdout);
        let mut words = said.split_whitespace();
        output.status.success() && (words.next(), words.next()) == (Some(self.name), Some(self.version))
    }
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tool_of_another_version_is_not_the_tool() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        let tool = Tool { name: "cargo-tool", version: "0.2.10" };
        for (said, is) in [
            ("cargo-tool 0.2.10", true),
            ("cargo-tool 0.2.10 (60fa45f63 2026-08-04)\nrelease: 0.2.10", true),
            ("cargo-tool 0.2.1", false),
            ("cargo-tool 0.2.100", false),
            ("other 0.2.10", false),
            ("", false),
        ] {
            // Another program in place of the one that ran before: a file that runs can't be written.
            std::fs::remove_file(&program).ok();
            std::fs::write(&program, format!("#!/bin/sh\ncat <<END\n{said}\nEND\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!(tool.is(&program), is, "{said}");
        }
        assert!(!tool.is(&dir.path().join("gone")));
    }
}
