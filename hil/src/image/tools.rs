//! Programs from Debian packages for the image: the files that were asked for, the libraries that they need and the
//! loader, and nothing else of their packages.
//!
//! Invariants: what a file needs is looked for as the loader does it (ld.so(8): the file's own folders, then
//! [`LOADER_FOLDERS`]), and put into the image where it was found, so that the loader finds it there. Links are followed
//! and not copied. What a program opens by name at run time (plug-ins, data) has to be asked for by name as well.
//!
//! On failure: a wanted file that the packages haven't and a library that can't be found are errors with their names.

use super::cpio::Archive;
use super::dynamic;
use super::error::{ImageError, file_error};
use crate::host::run_well;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where Debian's loader looks when nobody tells it more, in this order (`ld.so --list-diagnostics`, `path.system_dirs`).
const LOADER_FOLDERS: [&str; 4] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"];

/// The folders that are links into `/usr` on a machine (Debian's merged `/usr`), and in packages may be either.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// As many links in a path as Linux follows (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// How long unpacking one package may take.
const UNPACK_LIMIT: Duration = Duration::from_mins(5);

/// What is wanted of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The package.
    pub package: &'static str,
    /// The files, absolute paths in the image.
    pub files: &'static [&'static str],
}

/// Unpacked packages, as one root folder.
struct Tree<'a>(&'a Path);

/// The archive with the wanted files and all that they need. `packages` are the files of all packages concerned.
pub(super) fn archive(
    wanted: &[Wanted],
    packages: &[PathBuf],
    scratch: &Path,
) -> Result<Vec<u8>, ImageError> {
    for package in packages {
        run_well(Command::new("dpkg-deb").arg("-x").arg(package).arg(scratch), UNPACK_LIMIT)
            .map_err(|source| ImageError::Unpack { path: package.clone(), source })?;
    }
    let chosen = Tree(scratch).closure(wanted)?;
    pack(&chosen).map_err(file_error("pack", scratch))
}

impl Tree<'_> {
    /// The wanted files and what they need: paths in the image, and where their contents are.
    fn closure(&self, wanted: &[Wanted]) -> Result<BTreeMap<String, PathBuf>, ImageError> {
        let mut chosen = BTreeMap::new();
        let mut to_do = Vec::new();
        for Wanted { package, files } in wanted {
            for &name in *files {
                let missing =
                    || ImageError::NotInPackage { package: (*package).to_owned(), what: name.to_owned() };
                to_do.push((name.to_owned(), self.find(name).ok_or_else(missing)?));
            }
        }
        // Ends: nothing is added twice, and there are only so many files.
        while let Some((name, path)) = to_do.pop() {
            if chosen.contains_key(&name) {
                continue;
            }
            let bytes = fs::read(&path).map_err(file_error("read", &path))?;
            // Data has no needs.
            if bytes.starts_with(b"\x7fELF") {
                let needs = dynamic::needs(&bytes)
                    .map_err(|source| ImageError::Needs { path: path.clone(), source })?;
                to_do.extend(self.needed(&name, &needs)?);
            }
            chosen.insert(name, path);
        }
        Ok(chosen)
    }

    /// The loader and the libraries that the file of that name needs itself.
    fn needed(&self, name: &str, needs: &dynamic::Needs) -> Result<Vec<(String, PathBuf)>, ImageError> {
        let origin = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let own = needs.folders.iter().map(|folder| folder.replace("$ORIGIN", origin));
        let folders: Vec<String> = own.chain(LOADER_FOLDERS.map(str::to_owned)).collect();
        let library = |library: &String| {
            let mut places = folders.iter().map(|folder| format!("{folder}/{library}"));
            let found = if library.contains('/') {
                Some((library.clone(), self.find(library)))
            } else {
                places.find_map(|place| Some((place.clone(), Some(self.find(&place)?))))
            };
            let missing = || ImageError::NoLibrary { library: library.clone(), needed_by: name.to_owned() };
            found.and_then(|(place, path)| Some((place, path?))).ok_or_else(missing)
        };
        needs.loader.iter().chain(&needs.libraries).map(library).collect()
    }

    /// The regular file that an absolute path leads to when the tree is the root and `/usr` is merged.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let mut links = 0;
        self.follow(&normal(Path::new(name)), &mut links)
    }

    fn follow(&self, path: &Path, links: &mut usize) -> Option<PathBuf> {
        either_place(path).iter().find_map(|place| self.follow_literally(place, links))
    }

    fn follow_literally(&self, path: &Path, links: &mut usize) -> Option<PathBuf> {
        let mut parent = PathBuf::new();
        let mut parts = path.components();
        while let Some(part) = parts.next() {
            let here = parent.join(part);
            if let Ok(target) = fs::read_link(self.0.join(&here)) {
                *links += 1;
                // No link is above this one, so that `..` in its target is what it seems to be.
                let onward = parent.join(target).join(parts);
                return (*links <= LINKS_MAX).then(|| self.follow(&normal(&onward), links))?;
            }
            parent = here;
        }
        let found = self.0.join(parent);
        found.is_file().then_some(found)
    }
}

/// The path without `..`, relative to the root, which nothing leads above.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            Component::RootDir => out.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// The path, and where else a package may have the same file.
fn either_place(path: &Path) -> Vec<PathBuf> {
    let is_merged = |path: &Path| MERGED.iter().any(|folder| path.starts_with(folder));
    let other = match path.strip_prefix("usr") {
        Ok(below) => is_merged(below).then(|| below.to_owned()),
        Err(_) => is_merged(path).then(|| Path::new("usr").join(path)),
    };
    [path.to_owned()].into_iter().chain(other).collect()
}

/// The files and their folders.
fn pack(files: &BTreeMap<String, PathBuf>) -> io::Result<Vec<u8>> {
    let names = files.keys().map(|name| name.trim_start_matches('/'));
    let mut folders: BTreeSet<&Path> = names.flat_map(|name| Path::new(name).ancestors().skip(1)).collect();
    folders.remove(Path::new(""));
    let mut archive = Archive::new(Vec::new());
    // A set of paths is sorted: parents come before what is in them.
    for folder in folders {
        archive.directory(&folder.to_string_lossy(), 0o755)?;
    }
    for (name, path) in files {
        let contents = fs::read(path)?;
        // The loader maps libraries whatever their permissions; programs and it itself must be executable.
        let permissions = if contents.starts_with(b"\x7fELF") { 0o755 } else { 0o644 };
        archive.file(name.trim_start_matches('/'), permissions, &contents)?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::super::dynamic::tests::object;
    use super::*;
    use std::os::unix::fs::symlink;

    struct Root(tempfile::TempDir);

    impl Root {
        fn file(&self, path: &str, contents: &[u8]) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        /// The closure, with contents' places relative to the root.
        fn closure(&self, files: &'static [&'static str]) -> Result<Vec<(String, String)>, ImageError> {
            let closure = Tree(self.0.path()).closure(&[Wanted { package: "p", files }])?;
            let relative = |path: &Path| path.strip_prefix(self.0.path()).unwrap().display().to_string();
            Ok(closure.iter().map(|(name, path)| (name.clone(), relative(path))).collect())
        }
    }

    /// Packages as Debian 12 has them: some below `/usr`, some not, loader and libraries through links.
    fn root() -> Root {
        let root = Root(tempfile::tempdir().unwrap());
        root.file("sbin/tc", &object(Some("/lib64/ld.so"), &["liba.so.1", "libc.so.6"], None));
        root.link("lib64/ld.so", "/lib/x86_64-linux-gnu/ld.so");
        root.file("lib/x86_64-linux-gnu/ld.so", &object(None, &[], None));
        root.file("lib/x86_64-linux-gnu/libc.so.6", &object(None, &["ld.so"], None));
        root.link("usr/lib/x86_64-linux-gnu/liba.so.1", "liba.so.1.2");
        root.file(
            "usr/lib/x86_64-linux-gnu/liba.so.1.2",
            &object(None, &["libb.so", "libc.so.6"], Some("$ORIGIN/a")),
        );
        root.file("usr/lib/x86_64-linux-gnu/a/libb.so", &object(None, &[], None));
        root.file("usr/lib/x86_64-linux-gnu/libunused.so", &object(None, &[], None));
        root.file("usr/share/p/data", b"data");
        root
    }

    #[test]
    fn a_program_comes_with_what_it_needs_where_the_loader_looks() {
        let closure = root().closure(&["/usr/sbin/tc", "/usr/share/p/data"]).unwrap();
        let pairs = [
            ("/lib/x86_64-linux-gnu/a/libb.so", "usr/lib/x86_64-linux-gnu/a/libb.so"),
            ("/lib/x86_64-linux-gnu/ld.so", "lib/x86_64-linux-gnu/ld.so"),
            ("/lib/x86_64-linux-gnu/liba.so.1", "usr/lib/x86_64-linux-gnu/liba.so.1.2"),
            ("/lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
            ("/lib64/ld.so", "lib/x86_64-linux-gnu/ld.so"),
            ("/usr/sbin/tc", "sbin/tc"),
            ("/usr/share/p/data", "usr/share/p/data"),
        ];
        assert_eq!(closure, pairs.map(|(name, place)| (name.to_owned(), place.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = root();
        let told = |files| root.closure(files).unwrap_err().to_string();
        assert_eq!(told(&["/usr/sbin/ip"]), "package p has no /usr/sbin/ip");
        root.file("usr/bin/x", &object(None, &["libnone.so"], None));
        assert_eq!(
            told(&["/usr/bin/x"]),
            "/usr/bin/x needs libnone.so, which is in none of the packages that were fetched for it"
        );
        root.file("usr/bin/y", b"\x7fELF and no more");
        assert!(told(&["/usr/bin/y"]).starts_with("cannot read what "));
    }

    #[test]
    fn links_stay_inside_and_end() {
        let root = root();
        root.link("round", "/round");
        root.link("up", "../../../../etc/hostname");
        assert_eq!(Tree(root.0.path()).find("/round"), None);
        assert_eq!(Tree(root.0.path()).find("/up"), None);
        root.file("etc/hostname", b"inside");
        assert_eq!(Tree(root.0.path()).find("/up"), Some(root.0.path().join("etc/hostname")));
    }

    #[test]
    fn the_archive_has_folders_before_files_and_only_programs_can_be_run() {
        let root = root();
        let closure = Tree(root.0.path())
            .closure(&[Wanted { package: "p", files: &["/usr/sbin/tc", "/usr/share/p/data"] }]);
        let packed = pack(&closure.unwrap()).unwrap();
        let text = String::from_utf8_lossy(&packed);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing"));
        assert!(at("usr\0") < at("usr/sbin\0") && at("usr/sbin\0") < at("usr/sbin/tc\0"));
        // The mode is the second field of eight digits after the magic; the name comes 110 bytes after it.
        let mode = |name: &str| &text[at(name) - 110 + 14..at(name) - 110 + 22];
        assert_eq!((mode("usr/sbin/tc\0"), mode("usr/share/p/data\0")), ("000081ED", "000081A4"));
        assert!(!text.contains("unused"));
    }
}
