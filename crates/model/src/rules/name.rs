//! Rules about the file as such, and about names.

super::rules! { NAME_RULES, Template:
    VALUE_REQUIRED "template.value-required" {
        title: "every required value is given",
        why: "a cluster can't be made of a part of its description, and no value that matters is guessed",
        says: &["`…` is missing", "the template does not say …"],
        help: "add it",
    }
    VALUE_KNOWN "template.value-known" {
        title: "a choice is one of the known words",
        why: "a misspelt word must not be taken for the default",
        says: &["`…` is no …"],
        help: "use one of the known words",
    }
    OVERRIDE_UNUSED "template.override-unused" {
        title: "an override overrides something",
        why: "an override that is not needed any more would hide the next violation",
        says: &["`…` is overridden, and nothing violates it"],
        help: "remove the override",
        severity: Severity::Note,
    }
    NAME_VALID "name.valid" {
        title: "names are valid: host names by RFC 1123, others printable",
        why: "names become host names, certificates and file names",
        says: &["`…` is no …"],
        help: "rename it",
    }
    NAME_UNIQUE "name.unique" {
        title: "names of a kind are unique, without regard to case",
        why: "whoever reads a report, or a command, must know which one is meant",
        says: &["two …s are called `…`"],
        help: "rename one of them",
    }
    NAME_CLUSTER_DIFFERS "name.cluster-differs" {
        title: "the cluster is not called like a node or the witness",
        why: "the cluster's name and the machines' are looked up in one place",
        says: &["the cluster's name `…` is a machine's too"],
        help: "rename the cluster",
    }
    NAME_CLUSTER_LENGTH "name.cluster-length" {
        title: "in an ARM file, the cluster's name has 3 to 15 characters",
        why: "the published template asks for that, and the file is to be good for both",
        says: &["the cluster's name `…` has … characters"],
        help: "rename the cluster",
    }
}
