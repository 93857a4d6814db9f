//! Rules about zones, their members and the witness.

super::rules! { ZONES_RULES, Template:
    RACK_AWARE "zones.rack-aware" {
        title: "an ARM file's cluster pattern is RackAware",
        why: "other patterns ask for clusters that don't survive a rack",
        says: &["the cluster pattern is `…`, and twinrack makes rack aware clusters"],
        help: "set `clusterPattern` to `RackAware`",
    }
    ZONES_EXACTLY_TWO "zones.exactly-two" {
        title: "there are exactly two zones",
        why: "a zone is a rack, every byte is in both, and the witness decides between the two",
        says: &["there are … zones", "there are no zones", "there is only one zone"],
        help: "give two zones, one for each rack",
    }
    ZONES_NODE_COUNT "zones.node-count" {
        title: "a zone has 1 to 4 nodes",
        why: "the shapes are 1+1 to 4+4",
        says: &["zone `…` has … nodes", "a zone has … nodes"],
        help: "give each zone 1 to 4 nodes",
    }
    ZONES_EQUAL_SIZE "zones.equal-size" {
        title: "both zones have the same number of nodes",
        why: "each rack has to hold all data and run what the other one ran",
        says: &["the zones have … and … nodes"],
        help: "make the zones equal",
    }
    ZONES_NODE_IN_ONE "zones.node-in-one" {
        title: "a node is in exactly one zone",
        why: "a node stands in one rack and falls with it",
        says: &["node `…` is in two zones", "node `…` is twice in one zone"],
        help: "keep the node in one zone",
    }
    ZONES_MEMBERS_LISTED "zones.members-listed" {
        title: "zone members, nodes and Azure machines are the same set",
        why: "an ARM file names the machines three times; a slip in one of them would leave a node out",
        says: &["`…` is … and not …"],
        help: "name the same nodes everywhere",
    }
    ZONES_ORDINALS "zones.ordinals" {
        title: "nodes have the ordinals 1 to their number, each once",
        why: "a node's ordinal gives its storage addresses: two nodes with one would have the same",
        says: &["`…` is no node ordinal", "node `…` has ordinal …, and so has `…`", "node `…` has ordinal …, and there are … nodes"],
        help: "number the nodes from 1, each number once, or leave `ordinal` out everywhere",
    }
    WITNESS_REQUIRED "witness.required" {
        title: "there is a witness in a third place",
        why: "when the racks don't see each other, somebody else must decide which one goes on",
        says: &["there is no witness"],
        help: "add a witness: `[witness]` in a TOML template, `witnessType` `Cloud` in an ARM file",
    }
}
