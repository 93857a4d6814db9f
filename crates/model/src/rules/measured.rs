//! Rules about what was sent and arrived.

super::rules! { MEASURED_RULES, Measurement:
    PEER_UNREACHED "reach.peer-unreached" {
        title: "every machine reaches every other on each network that they share",
        why: "a pair that can't talk is a fault from the first day",
        says: &["… to … over …: … of … probes lost", "… to … over …: … of … probes lost (…)"],
        help: "see that the switches between the two carry the network's VLAN, and that nobody else has the address",
    }
    FULL_SIZE_LOST "reach.full-size-lost" {
        title: "packets as large as the storage MTU arrive undivided, from every node to every other",
        why: "a switch that drops large frames lets small ones through: it looks well until data is written",
        says: &["… to … over …: … of … packets of … bytes lost", "… to … over …: … of … packets of … bytes lost (…)"],
        help: "raise the frame size of every port between the two to the MTU + 18, or lower the intent's MTU",
    }
    STORAGE_NOT_ISOLATED "reach.storage-not-isolated" {
        title: "a storage address is reached on its own network alone",
        why: "storage addresses are never routed, and storage frames never reach the spine",
        says: &["… reaches … (…, storage network …) from …"],
        help: "remove routes to the storage subnets from routers and nodes, and the storage VLANs from ports that are not storage's",
    }
    LATENCY_TOO_FEW_PROBES "latency.too-few-probes" {
        title: "at least 200 round trips are measured on every way between the rooms",
        why: "a median of fewer says little, and lost probes are a fault of their own",
        says: &["… to … over storage network …: … probes were answered, … are needed to judge"],
        help: "see why probes are lost, then measure again",
    }
    LATENCY_ROOMS_TOO_FAR "latency.rooms-too-far" {
        title: "the median round trip between the rooms is at most 1 ms, on every way, each direction",
        why: "every write waits for it",
        says: &["… to … over storage network …: median … µs; …"],
        help: "look for a detour or a loaded link between the rooms; a direct fibre takes 10 µs a kilometre there and back",
        milder: Some("held against the ways inside the rooms on a lab's emulated machines"),
    }
    ROOMS_TOO_SLOW "bandwidth.rooms-too-slow" {
        title: "between the rooms all storage paths at once carry nodes per zone × storage ports × NIC speed; 80 percent of it is enough",
        why: "what a rack writes, the other one has to take at the same rate",
        says: &["from … to … … were carried, and the rule asks for …"],
        help: "add links between the rooms, or look for one that is slower than it should be",
        severity: Severity::Warning,
        milder: Some("a note on a lab's emulated machines"),
    }
}
