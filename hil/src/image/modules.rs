//! Which kernel modules go into the image, and in which order they are loaded.
//!
//! Debian makes `modules.dep` when it installs a kernel (with `depmod`), so the package hasn't one. The order is
//! computed from what each module says of itself in its `.modinfo` section: `depends=` are modules that it can't do
//! without, `softdep=pre: … post: …` are those that it asks for at run time, usually by an alias such as `crc32c`, of
//! which there may be several providers (all are taken, as `modprobe` does). modprobe.d(5), depmod(8).
//!
//! Invariants: a module comes after everything that it depends on; nothing comes twice; what is built into the kernel
//! doesn't come at all; the same input gives the same order.
//!
//! On failure: a wanted or needed name that is neither a module nor built in, and a circle of hard dependencies, are
//! errors. A soft dependency that can't be had is left out, as the word says.

use std::collections::{BTreeMap, BTreeSet};

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModuleInfo {
    /// Modules that must be there before it.
    pub(super) depends: Vec<String>,
    /// Modules or aliases that it would like before it.
    pub(super) before: Vec<String>,
    /// Modules or aliases that it would like after it.
    pub(super) after: Vec<String>,
    /// Other names of it.
    pub(super) aliases: Vec<String>,
}

/// All modules of a kernel.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    modules: BTreeMap<String, ModuleInfo>,
    built_in: BTreeSet<String>,
    providers: BTreeMap<String, Vec<String>>,
}

/// The modules can't be put in an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// Nobody knows the name.
    #[error("the kernel has no module {name}, neither as a file nor built in")]
    Unknown {
        /// The wanted name.
        name: String,
    },
    /// A module depends on one that isn't there.
    #[error("module {needed_by} depends on {name}, which the kernel has neither as a file nor built in")]
    Missing {
        /// The name.
        name: String,
        /// Who needs it.
        needed_by: String,
    },
    /// Modules depend on each other in a circle.
    #[error("modules depend on each other in a circle: {}", circle.join(" -> "))]
    Circle {
        /// The circle, its first name again at the end.
        circle: Vec<String>,
    },
}

/// A module's name as the kernel has it: `nvme-core` and `nvme_core` are one.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in that file, or `None` when the file is none: the last part of the path without `.ko` and
/// without the ending of a compression.
pub(super) fn name_of_file(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|ending| file.strip_suffix(ending))?;
    (!stem.is_empty()).then(|| canonical(stem))
}

/// The names of the modules that are built in, from the package's `modules.builtin` (one path a line).
pub(super) fn built_in_names(modules_builtin: &str) -> impl Iterator<Item = String> {
    modules_builtin.lines().filter_map(|line| name_of_file(line.trim()))
}

/// Reads a `.modinfo` section: `key=value` strings, each ended by a zero byte. Keys that don't matter are skipped.
pub(super) fn parse_modinfo(section: &[u8]) -> ModuleInfo {
    let mut info = ModuleInfo::default();
    for entry in section.split(|&byte| byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        match entry.split_once('=') {
            Some(("depends", names)) => {
                info.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(canonical));
            }
            Some(("softdep", text)) => {
                let mut list = None;
                for word in text.split_whitespace() {
                    match word {
                        "pre:" => list = Some(&mut info.before),
                        "post:" => list = Some(&mut info.after),
                        name => {
                            if let Some(list) = &mut list {
                                list.push(canonical(name));
                            }
                        }
                    }
                }
            }
            Some(("alias", alias)) => info.aliases.push(canonical(alias)),
            _ => {}
        }
    }
    info
}

impl Catalogue {
    pub(super) fn new(
        modules: BTreeMap<String, ModuleInfo>,
        built_in: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut providers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, info) in &modules {
            for alias in &info.aliases {
                providers.entry(alias.clone()).or_default().push(name.clone());
            }
        }
        Self { modules, built_in: built_in.into_iter().collect(), providers }
    }

    /// The names of the modules to load, in order, so that the wanted ones work.
    pub(super) fn load_order(&self, wanted: &[String]) -> Result<Vec<String>, ModuleError> {
        let mut walk = Walk { catalogue: self, order: Vec::new(), under_way: Vec::new() };
        for name in wanted {
            let name = canonical(name);
            if self.modules.contains_key(&name) {
                walk.visit(&name)?;
            } else if !self.built_in.contains(&name) {
                return Err(ModuleError::Unknown { name });
            }
        }
        Ok(walk.order)
    }
}

/// A depth-first walk along the dependencies.
struct Walk<'a> {
    catalogue: &'a Catalogue,
    /// Modules that are done, in loading order.
    order: Vec<String>,
    /// From the wanted module down to the one that is looked at.
    under_way: Vec<String>,
}

impl Walk<'_> {
    /// Puts the module, which exists, and what it needs into the order.
    fn visit(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.order.iter().any(|done| done == name) {
            return Ok(());
        }
        if let Some(start) = self.under_way.iter().position(|above| above == name) {
            let mut circle = self.under_way[start..].to_vec();
            circle.push(name.to_owned());
            return Err(ModuleError::Circle { circle });
        }
        let catalogue = self.catalogue;
        let Some(info) = catalogue.modules.get(name) else { return Ok(()) };
        self.under_way.push(name.to_owned());
        for needed in &info.depends {
            if catalogue.modules.contains_key(needed) {
                self.visit(needed)?;
            } else if !catalogue.built_in.contains(needed) {
                return Err(ModuleError::Missing { name: needed.clone(), needed_by: name.to_owned() });
            }
        }
        self.visit_if_possible(&info.before);
        self.under_way.pop();
        self.order.push(name.to_owned());
        self.visit_if_possible(&info.after);
        Ok(())
    }

    /// The same for soft dependencies: what can't be had, or would close a circle, is left out without a trace.
    fn visit_if_possible(&mut self, names: &[String]) {
        for name in names {
            let direct = self.catalogue.modules.contains_key(name).then(|| std::slice::from_ref(name));
            let providers =
                direct.or_else(|| self.catalogue.providers.get(name).map(Vec::as_slice)).unwrap_or_default();
            for provider in providers {
                let (done, depth) = (self.order.len(), self.under_way.len());
                if self.visit(provider).is_err() {
                    self.order.truncate(done);
                    self.under_way.truncate(depth);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn catalogue(modules: &[(&str, &str)], built_in: &[&str]) -> Catalogue {
        let modules = modules.iter().map(|(name, modinfo)| {
            ((*name).to_owned(), parse_modinfo(modinfo.replace('|', "\0").as_bytes()))
        });
        Catalogue::new(modules.collect(), built_in.iter().map(|name| (*name).to_owned()))
    }

    fn order(catalogue: &Catalogue, wanted: &[&str]) -> Result<String, ModuleError> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        catalogue.load_order(&wanted).map(|order| order.join(" "))
    }

    #[test]
    fn modinfo_is_read_as_the_kernel_writes_it() {
        let section = b"license=GPL\0softdep=pre: crc32c post: zstd-x\0\0alias=crypto-crc32c\0\
                        depends=nvme-core,crc-t10dif\0softdep=pre: crct10dif\0intree=Y\0";
        let expected = ModuleInfo {
            depends: vec!["nvme_core".into(), "crc_t10dif".into()],
            before: vec!["crc32c".into(), "crct10dif".into()],
            after: vec!["zstd_x".into()],
            aliases: vec!["crypto_crc32c".into()],
        };
        assert_eq!(parse_modinfo(section), expected);
        assert_eq!(parse_modinfo(b"depends=\0"), ModuleInfo::default());
    }

    #[test]
    fn names_are_found_in_paths() {
        assert_eq!(name_of_file("kernel/drivers/nvme/host/nvme-core.ko").as_deref(), Some("nvme_core"));
        assert_eq!(name_of_file("nvme-core.ko.xz").as_deref(), Some("nvme_core"));
        assert_eq!(name_of_file("modules.order"), None);
        assert_eq!(name_of_file("kernel/.ko"), None);
        let names: Vec<String> = built_in_names("kernel/crypto/rng.ko\n\nkernel/a/b-c.ko\n").collect();
        assert_eq!(names, ["rng", "b_c"]);
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let catalogue = catalogue(
            &[
                ("nvme", "depends=nvme-core"),
                ("nvme_tcp", "depends=nvme-core,nvme-fabrics"),
                ("nvme_fabrics", "depends=nvme-core"),
                ("nvme_core", "depends=t10-pi"),
                ("t10_pi", "depends="),
                ("unrelated", "depends="),
            ],
            &[],
        );
        assert_eq!(
            order(&catalogue, &["nvme", "nvme-tcp"]).unwrap(),
            "t10_pi nvme_core nvme nvme_fabrics nvme_tcp"
        );
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let catalogue = catalogue(&[("virtio_rng", "depends=rng-core")], &["rng_core", "tls"]);
        assert_eq!(order(&catalogue, &["tls", "virtio-rng"]).unwrap(), "virtio_rng");
    }

    #[test]
    fn soft_dependencies_are_found_by_alias_and_all_of_them_taken() {
        let catalogue = catalogue(
            &[
                ("libcrc32c", "softdep=pre: crc32c nobody"),
                ("crc32c_generic", "alias=crc32c|alias=crypto-crc32c"),
                ("crc32c_intel", "alias=crc32c|alias=cpu:type:x86*"),
                ("raid", "softdep=post: helper"),
                ("helper", "depends=raid"),
            ],
            &[],
        );
        assert_eq!(order(&catalogue, &["libcrc32c"]).unwrap(), "crc32c_generic crc32c_intel libcrc32c");
        assert_eq!(order(&catalogue, &["raid"]).unwrap(), "raid helper");
    }

    #[test]
    fn a_soft_dependency_that_cannot_be_had_leaves_no_trace() {
        let catalogue = catalogue(
            &[
                ("a", "softdep=pre: b"),
                ("b", "depends=c,a"), // closes a circle
                ("c", "depends="),
                ("d", "softdep=pre: e"),
                ("e", "depends=c,gone"), // needs what isn't there
            ],
            &[],
        );
        assert_eq!(order(&catalogue, &["a", "d"]).unwrap(), "a d");
    }

    #[test]
    fn a_soft_circle_that_was_given_up_is_not_in_the_way_later() {
        let catalogue = catalogue(&[("a", "softdep=pre: b"), ("b", "depends=m"), ("m", "depends=a")], &[]);
        assert_eq!(order(&catalogue, &["a", "b"]).unwrap(), "a m b");
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error() {
        let catalogue = catalogue(&[("a", "depends=b-c")], &[]);
        assert_eq!(order(&catalogue, &["x"]), Err(ModuleError::Unknown { name: "x".into() }));
        let missing = ModuleError::Missing { name: "b_c".into(), needed_by: "a".into() };
        assert_eq!(order(&catalogue, &["a"]), Err(missing));
    }

    #[test]
    fn a_circle_is_an_error_that_shows_it() {
        let catalogue =
            catalogue(&[("a", "depends=b"), ("b", "depends=c"), ("c", "depends=b"), ("d", "depends=d")], &[]);
        let error = order(&catalogue, &["a"]).unwrap_err();
        assert_eq!(error.to_string(), "modules depend on each other in a circle: b -> c -> b");
        assert!(matches!(order(&catalogue, &["d"]), Err(ModuleError::Circle { .. })));
    }

    proptest! {
        #[test]
        fn no_section_panics_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_modinfo(&bytes);
        }

        #[test]
        fn in_any_order_each_module_follows_what_it_depends_on(
            edges in proptest::collection::vec((0usize..12, 0usize..12, any::<bool>()), 0..40),
            wanted in proptest::collection::vec(0usize..12, 1..5),
        ) {
            let name = |n: usize| format!("m{n}");
            let mut modules: BTreeMap<String, ModuleInfo> =
                (0..12).map(|n| (name(n), ModuleInfo::default())).collect();
            for (from, to, hard) in edges {
                let info = modules.get_mut(&name(from)).unwrap();
                if hard { &mut info.depends } else { &mut info.before }.push(name(to));
            }
            let wanted: Vec<String> = wanted.into_iter().map(name).collect();
            let catalogue = Catalogue::new(modules, []);
            if let Ok(order) = catalogue.load_order(&wanted) {
                let place = |name: &String| order.iter().position(|done| done == name);
                for (at, module) in order.iter().enumerate() {
                    prop_assert_eq!(place(module), Some(at), "twice");
                    for needed in &catalogue.modules[module].depends {
                        prop_assert!(place(needed).is_some_and(|needed| needed < at));
                    }
                }
                prop_assert!(wanted.iter().all(|name| place(name).is_some()));
            }
        }
    }
}
