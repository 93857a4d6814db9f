//! An ARM deployment parameters file into the draft: which parameters are read, which have no effect and why.
//!
//! Keys compare without case. `null` and empty text mean "not given", as in the files that Azure's portal and the
//! published quick starts (`Azure/azure-quickstart-templates`, `microsoft.azurestackhci/create-cluster-rac-enabled` and
//! `…-disconnected`) write. Parameters that those templates don't have are listed, not refused.
//!
//! On failure: wrong types, and keys that differ only in case, make the file unreadable; bad values are left to the
//! rules.

use crate::draft::{Draft, DraftNode, DraftWitness, DraftZone, Listed};
use crate::near::quoted;
use crate::read_arm_network as network;
use crate::read_own::parsed_address;
use crate::secrets::is_secret_key;
use crate::tree::{At, Entry, Field, Kind, Reader, Table, Value};
use crate::{Format, IgnoredKind, LISTED_MAX, Problem};
use model::{ClusterName, ConfigurationMode, DeploymentMode, Location, NodeName, WitnessKind, rules};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Parameters that are read.
pub(crate) const READ: [&str; 22] = [
    "arcNodeResourceIds",
    "bitlockerDataVolumes",
    "clusterName",
    "clusterPattern",
    "configurationMode",
    "defaultGateway",
    "deploymentMode",
    "dnsServers",
    "enableStorageAutoIp",
    "endingIPAddress",
    "intentList",
    "localAvailabilityZones",
    "networkingPattern",
    "networkingType",
    "physicalNodesSettings",
    "smbClusterEncryption",
    "startingIPAddress",
    "storageConnectivitySwitchless",
    "storageNetworkList",
    "subnetMask",
    "useDhcp",
    "witnessType",
];

const KEY_VAULT: &str = "secrets are not kept in an Azure Key Vault";
const DIAGNOSTICS: &str = "no logs are kept in an Azure storage account";
const AZURE: &str = "the cluster is no Azure resource";
const DIRECTORY: &str = "nodes join no Active Directory";
const ACCOUNTS: &str = "nodes have no Windows accounts; access is by the cluster's own certificates";
const WITNESS: &str = "every kind of witness is a twinrack witness node in a third place";
const SECURITY: &str = "a Windows security setting";
const TELEMETRY: &str = "nothing is sent to Microsoft";
const SBE: &str = "solution builder extensions are Windows packages";

/// Parameters that have no meaning on Linux, each with the reason.
const MEANINGLESS: [(&str, &str); 46] = [
    ("keyVaultName", KEY_VAULT),
    ("createNewKeyVault", KEY_VAULT),
    ("keyVaultSuffix", KEY_VAULT),
    ("softDeleteRetentionDays", KEY_VAULT),
    ("secretsLocation", KEY_VAULT),
    ("diagnosticStorageAccountName", DIAGNOSTICS),
    ("logsRetentionInDays", DIAGNOSTICS),
    ("storageAccountType", DIAGNOSTICS),
    ("apiVersion", AZURE),
    ("arbDeploymentAppID", AZURE),
    ("arbDeploymentAppSecret", AZURE),
    ("arbDeploymentSPNObjectID", AZURE),
    ("customLocation", AZURE),
    ("edgeDevicesBatchSize", AZURE),
    ("hciResourceProviderObjectID", AZURE),
    ("location", AZURE),
    ("tenantId", AZURE),
    ("adouPath", DIRECTORY),
    ("domainFqdn", DIRECTORY),
    ("namingPrefix", DIRECTORY),
    ("AzureStackLCMAdminPassword", ACCOUNTS),
    ("AzureStackLCMAdminPasssword", ACCOUNTS),
    ("AzureStackLCMAdminUsername", ACCOUNTS),
    ("localAdminPassword", ACCOUNTS),
    ("localAdminUserName", ACCOUNTS),
    ("clusterWitnessStorageAccountName", WITNESS),
    ("witnessPath", WITNESS),
    ("bitlockerBootVolume", SECURITY),
    ("credentialGuardEnforced", SECURITY),
    ("driftControlEnforced", SECURITY),
    ("hvciProtection", SECURITY),
    ("drtmProtection", SECURITY),
    ("securityLevel", SECURITY),
    ("sideChannelMitigationEnforced", SECURITY),
    ("smbSigningEnforced", SECURITY),
    ("wdacEnforced", SECURITY),
    ("episodicDataUpload", TELEMETRY),
    ("euLocation", TELEMETRY),
    ("streamingDataClient", TELEMETRY),
    ("partnerCredentiallist", SBE),
    ("partnerProperties", SBE),
    ("sbeFamily", SBE),
    ("sbeManifestCreationDate", SBE),
    ("sbeManifestSource", SBE),
    ("sbePublisher", SBE),
    ("sbeVersion", SBE),
];

const MODES: [(&str, DeploymentMode); 2] =
    [("Validate", DeploymentMode::Validate), ("Deploy", DeploymentMode::Deploy)];
const CONFIGURATIONS: [(&str, ConfigurationMode); 3] = [
    ("Express", ConfigurationMode::Express),
    ("InfraOnly", ConfigurationMode::InfraOnly),
    ("KeepStorage", ConfigurationMode::KeepStorage),
];
/// `No Witness` is the published template's word for none, and its default.
const WITNESSES: [(&str, Option<WitnessKind>); 6] = [
    ("Cloud", Some(WitnessKind::Cloud)),
    ("FileShare", Some(WitnessKind::FileShare)),
    ("Local", Some(WitnessKind::Local)),
    ("No Witness", None),
    ("NoWitness", None),
    ("None", None),
];

pub(crate) fn draft(tree: &Value, reader: &mut Reader) -> Draft {
    let root = Location { path: String::new(), span: None };
    let entries = reader.table_of(tree, root.clone()).map_or_else(Vec::new, |file| parameters(&file, reader));
    let file = Table { entries: &entries, at: root };
    let name = reader.text(&file, "clusterName");
    let name = reader.parsed(name, rules::NAME_VALID);
    let name = reader.required(name, &file, "clusterName");
    let mode = reader.text(&file, "deploymentMode");
    let configuration = reader.text(&file, "configurationMode");
    security(&file, reader);
    pattern(&file, reader);
    let (intents, qos) = network::intents(&file, reader);
    network::pattern(&file, &intents, reader);
    Draft {
        format: Format::Arm,
        overrides: Vec::new(),
        mode: reader.choice(mode, "deployment mode", &MODES),
        configuration: reader.choice(configuration, "configuration mode", &CONFIGURATIONS),
        wiring: Field::Missing,
        zones: Listed { items: zones(&file, reader), at: reader.key_at(&file, "localAvailabilityZones") },
        nodes: Listed { items: nodes(&file, reader), at: reader.key_at(&file, "physicalNodesSettings") },
        machines: machines(&file, reader),
        witness: witness(&file, &name, reader),
        witness_at: reader.key_at(&file, "witnessType"),
        management: network::management(&file, reader),
        compute_vlans: Vec::new(),
        storage_networks: Listed {
            items: network::storage_networks(&file, reader),
            at: reader.key_at(&file, "storageNetworkList"),
        },
        qos,
        intents: Listed { items: intents, at: reader.key_at(&file, "intentList") },
        name,
    }
}

/// The parameters that are read, each with its `value` lifted out of its wrapper. The others are noted as ignored.
fn parameters(file: &Table<'_>, reader: &mut Reader) -> Vec<Entry> {
    duplicates(file.entries, reader);
    not_a_template(file, reader);
    for entry in file.entries {
        if !["$schema", "contentVersion", "parameters"].iter().any(|k| entry.key.eq_ignore_ascii_case(k)) {
            reader.ignore(&entry.key, IgnoredKind::Unknown, "not part of a deployment parameters file");
        }
    }
    let Some(parameters) = reader.table(file, "parameters") else {
        let help = "needed: an ARM deployment parameters file, or a TOML template";
        reader.problems.push(Problem::new("there are no `parameters`", None).help(help));
        return Vec::new();
    };
    let mut lifted = Vec::new();
    for entry in parameters.entries {
        if READ.iter().any(|known| known.eq_ignore_ascii_case(&entry.key)) {
            lifted.extend(lift(entry, reader));
        } else {
            ignore(&entry.key, reader);
        }
    }
    lifted
}

/// A parameter's entry with its `value` in place of the wrapper.
fn lift(entry: &Entry, reader: &mut Reader) -> Option<Entry> {
    let at = Location { path: entry.key.clone(), span: Some(entry.key_span.clone()) };
    let wrapper = reader.table_of(&entry.value, at.clone())?;
    let inner = |key: &str| wrapper.entries.iter().find(|inner| inner.key.eq_ignore_ascii_case(key));
    if let Some(value) = inner("value") {
        return Some(Entry { value: value.value.clone(), ..entry.clone() });
    }
    let message = if inner("reference").is_some() {
        format!("{} refers to a key vault, which twinrack can't read", quoted(&entry.key))
    } else {
        format!("{} has no `value`", quoted(&entry.key))
    };
    reader.problems.push(Problem::new(message, Some(at)).help("write `{ \"value\": … }`"));
    None
}

fn ignore(name: &str, reader: &mut Reader) {
    if let Some((_, reason)) = MEANINGLESS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return reader.ignore(name, IgnoredKind::NoMeaningOnLinux, *reason);
    }
    let near = if is_secret_key(name) { None } else { reader.suggestion(name, READ) };
    let reason = near
        .map_or_else(|| "not known to twinrack".to_owned(), |near| format!("not known to twinrack; {near}"));
    reader.ignore(name, IgnoredKind::Unknown, reason);
}

/// Keys that are the same to ARM, at every level.
pub(crate) fn duplicates(entries: &[Entry], reader: &mut Reader) {
    duplicates_in(entries, &mut Vec::new(), reader);
}

/// The steps that lead to a value. A path is put together only where something is told: steps may be as long as the file.
enum Step<'t> {
    Key(&'t str),
    Place(usize),
}

/// Longest part of a key that a path repeats, characters.
const STEP_CHARACTERS_MAX: usize = 80;

fn path(steps: &[Step<'_>]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) => {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.extend(key.chars().take(STEP_CHARACTERS_MAX));
            }
            Step::Place(place) => {
                let _ = write!(path, "[{place}]");
            }
        }
    }
    path
}

fn duplicates_in<'t>(entries: &'t [Entry], steps: &mut Vec<Step<'t>>, reader: &mut Reader) {
    let mut seen: HashMap<String, &Entry> = HashMap::new();
    for entry in entries {
        steps.push(Step::Key(&entry.key));
        if let Some(first) = seen.get(&entry.key.to_ascii_lowercase())
            && reader.problems.len() <= LISTED_MAX
        {
            let at = |entry: &Entry| Location { path: path(steps), span: Some(entry.key_span.clone()) };
            let message = format!("{} is given twice: keys compare without case", quoted(&entry.key));
            let mut problem = Problem::new(message, Some(at(entry))).help("keep one of them");
            problem.related.push((at(first), "given first here".to_owned()));
            reader.problems.push(problem);
        } else {
            seen.entry(entry.key.to_ascii_lowercase()).or_insert(entry);
        }
        duplicates_inside(&entry.value, steps, reader);
        steps.pop();
    }
}

fn duplicates_inside<'t>(value: &'t Value, steps: &mut Vec<Step<'t>>, reader: &mut Reader) {
    match &value.kind {
        Kind::Table(entries) => duplicates_in(entries, steps, reader),
        Kind::List(values) => {
            for (place, value) in values.iter().enumerate() {
                steps.push(Step::Place(place));
                duplicates_inside(value, steps, reader);
                steps.pop();
            }
        }
        _ => {}
    }
}

/// A deployment template has `parameters` too, without values.
fn not_a_template(file: &Table<'_>, reader: &mut Reader) {
    let schema = reader.text(file, "$schema");
    if let Some(schema) =
        schema.filter(|schema| schema.value.to_ascii_lowercase().contains("deploymenttemplate.json"))
    {
        let message = "this is an ARM deployment template, not its parameters file";
        let help =
            "give the file whose name usually ends in `.parameters.json`, and this one with `--arm-template`";
        reader.problems.push(Problem::new(message, Some(schema.at)).help(help));
    }
}

/// Switches for what is not built yet are listed when they ask for it.
fn security(file: &Table<'_>, reader: &mut Reader) {
    for (key, reason) in [
        ("bitlockerDataVolumes", "encryption of data volumes is not built yet"),
        ("smbClusterEncryption", "encryption of storage traffic is not built yet"),
    ] {
        if reader.boolean(file, key).is_some_and(|asked| asked.value) {
            reader.ignore(key, IgnoredKind::NotBuiltYet, reason);
        }
    }
}

fn pattern(file: &Table<'_>, reader: &mut Reader) {
    let pattern = reader.text(file, "clusterPattern");
    if let Some(pattern) = pattern.filter(|pattern| !pattern.value.eq_ignore_ascii_case("RackAware")) {
        let message = format!(
            "the cluster pattern is {}, and twinrack makes rack aware clusters",
            quoted(&pattern.value)
        );
        reader.flaw(rules::RACK_AWARE, message, None, &pattern.at);
    }
}

fn zones(file: &Table<'_>, reader: &mut Reader) -> Vec<DraftZone> {
    let mut zones = Vec::new();
    for table in reader.tables(file, "localAvailabilityZones") {
        ignore_others(&table, &["localAvailabilityZoneName", "nodes"], reader);
        let name = reader.text(&table, "localAvailabilityZoneName");
        let name = reader.parsed(name, rules::NAME_VALID);
        let members = reader.texts(&table, "nodes");
        zones.push(DraftZone {
            name: reader.required(name, &table, "localAvailabilityZoneName"),
            members: members.into_iter().map(|raw| reader.parsed(Some(raw), rules::NAME_VALID)).collect(),
            at: table.at,
        });
    }
    zones
}

fn nodes(file: &Table<'_>, reader: &mut Reader) -> Vec<DraftNode> {
    let mut nodes = Vec::new();
    for table in reader.tables(file, "physicalNodesSettings") {
        ignore_others(&table, &["name", "ipv4Address"], reader);
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let raw = reader.text(&table, "ipv4Address");
        let management_ip = parsed_address(reader, raw);
        nodes.push(DraftNode {
            name: reader.required(name, &table, "name"),
            // Their order is that of the list.
            ordinal: Field::Missing,
            management_ip: reader.required(management_ip, &table, "ipv4Address"),
        });
    }
    nodes
}

/// A machine's name is the last part of its resource id.
fn machines(file: &Table<'_>, reader: &mut Reader) -> Vec<Field<NodeName>> {
    let ids = reader.texts(file, "arcNodeResourceIds");
    let names = ids.into_iter().map(|resource| {
        let name = resource.value.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        reader.parsed(Some(At { value: name, at: resource.at }), rules::NAME_VALID)
    });
    names.collect()
}

/// ARM files give the witness no host name: it is called `<cluster>-witness`. A cluster's name that is too long for that
/// is against the rule on its length.
fn witness(file: &Table<'_>, cluster: &Field<ClusterName>, reader: &mut Reader) -> Field<DraftWitness> {
    let raw = reader.text(file, "witnessType");
    let (kind, at) = match reader.choice(raw, "witness type", &WITNESSES) {
        Field::Good(At { value: Some(kind), at }) => (kind, at),
        Field::Good(_) | Field::Missing => return Field::Missing,
        Field::Bad => return Field::Bad,
    };
    let name = cluster.value().and_then(|cluster| format!("{cluster}-witness").parse().ok());
    let name = name.map_or(Field::Bad, |value| Field::Good(At { value, at: at.clone() }));
    Field::Good(At { value: DraftWitness { name, kind, management_ip: Field::Missing }, at })
}

/// Lists every key of a table that is not read.
pub(crate) fn ignore_others(table: &Table<'_>, known: &[&str], reader: &mut Reader) {
    for entry in
        table.entries.iter().filter(|entry| !known.iter().any(|k| k.eq_ignore_ascii_case(&entry.key)))
    {
        let near = if is_secret_key(&entry.key) {
            None
        } else {
            reader.suggestion(&entry.key, known.iter().copied())
        };
        let reason = near.map_or_else(
            || "not known to twinrack".to_owned(),
            |near| format!("not known to twinrack; {near}"),
        );
        reader.ignore(table.path(&entry.key), IgnoredKind::Unknown, reason);
    }
}
