//! What can go wrong while the node image is made. All of it is a failure of the lab (exit code 69), none of a product.

use super::cache::EntryError;
use super::compression::UnpackError;
use super::elf::ElfError;
use super::kernel::KernelError;
use super::modules::ModuleError;
use crate::host::CommandError;
use std::io;
use std::path::{Path, PathBuf};

/// The node image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of the cache, or a program, can't be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried: "read", "write", …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There isn't room for a build.
    #[error(
        "{} has {available_mib} MiB free and a node image needs {needed_mib} MiB while it is built; \
         free some, or put the cache elsewhere",
        path.display()
    )]
    NoSpace {
        /// The cache.
        path: PathBuf,
        /// What is free, in MiB.
        available_mib: u64,
        /// What is needed, in MiB.
        needed_mib: u64,
    },
    /// apt could not fetch the archive's package lists.
    #[error("cannot fetch Debian's package lists; check the network and the sources in /etc/apt")]
    PackageLists(#[source] CommandError),
    /// The archive's lists, as far as they could be fetched, don't have the package.
    #[error(
        "apt knows no package {package}; check the network and that /etc/apt has Debian's main archive. \
         Fetching the package lists, apt said:\n{fetching}"
    )]
    UnknownPackage {
        /// The package.
        package: String,
        /// What apt said last while it fetched the lists; it doesn't call an archive that can't be reached an error.
        fetching: String,
        /// What apt said.
        #[source]
        source: CommandError,
    },
    /// The lists' entry for the package lacks something.
    #[error("apt's entry for package {package} has no usable {field}")]
    PackageEntry {
        /// The package.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// The package could not be fetched.
    #[error(
        "cannot download {packages}; if the archive has replaced that, refresh the image to take what is newer"
    )]
    Download {
        /// The packages and their versions.
        packages: String,
        /// What apt said.
        #[source]
        source: CommandError,
    },
    /// A downloaded package isn't what the archive's signed lists say.
    #[error("{} has SHA-256 {found}, and the archive's lists say {expected}", path.display())]
    WrongPackage {
        /// The file.
        path: PathBuf,
        /// The hash in the lists.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// A package could not be unpacked.
    #[error("cannot unpack {} (it is whole; dpkg-deb and free space are needed)", path.display())]
    Unpack {
        /// The package's file.
        path: PathBuf,
        /// What dpkg-deb said.
        #[source]
        source: CommandError,
    },
    /// A package lacks what it should bring.
    #[error("package {package} has no {what}")]
    NotInPackage {
        /// The package.
        package: String,
        /// What was looked for.
        what: String,
    },
    /// A file of a package is no program or library.
    #[error("cannot read what {} needs to run", path.display())]
    Needs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// A program's library is in none of the packages that it depends on.
    #[error("{needed_by} needs {library}, which is in none of the packages that were fetched for it")]
    NoLibrary {
        /// The library's or loader's name.
        library: String,
        /// Who needs it, a path in the image.
        needed_by: String,
    },
    /// The kernel isn't one that can be booted directly.
    #[error("cannot use the kernel {}", path.display())]
    Kernel {
        /// The kernel's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KernelError,
    },
    /// A module is packed in a way that can't be read.
    #[error("cannot unpack the module {}", path.display())]
    PackedModule {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
    /// A module is no module.
    #[error("cannot read the module {}", path.display())]
    Module {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// The wanted modules can't be had.
    #[error("cannot choose the node's kernel modules")]
    Modules(#[source] ModuleError),
    /// A folder that was named as an image isn't one.
    #[error("{} is no whole node image", path.display())]
    NoImage {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        #[source]
        source: EntryError,
    },
    /// The nodes' own programs did not build.
    #[error("cannot build the nodes' programs")]
    BuildPrograms(#[source] CommandError),
    /// A program was built but isn't where it should be.
    #[error("the build left no {}", path.display())]
    NoProgram {
        /// Where it should be.
        path: PathBuf,
    },
    /// One of our own programs is none.
    #[error("{} is no program for the nodes", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// One of our own programs needs a loader.
    #[error("{} is dynamically linked; a node must start without a loader, so it must be static", path.display())]
    DynamicProgram {
        /// The file.
        path: PathBuf,
    },
}

/// Names the file in an error of the file system: `.map_err(file_error("read", path))`.
pub(super) fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::File { doing, path: path.to_owned(), source }
}
