//! Rules about what the machines have.

const EMULATED: &str = "a note on a lab's emulated machines";

super::rules! { HARDWARE_RULES, Inventory:
    NIC_MISSING "nic.missing" {
        title: "every adapter that an intent names is a NIC of every node",
        why: "the intents are the same on every node; a node without the NIC can't carry its traffic",
        says: &["… has no NIC for adapter `…`"],
        help: "plug in the NIC, or correct the adapter's name in the template",
    }
    NIC_SPEEDS_DIFFER "nic.speeds-differ" {
        title: "the NICs of an adapter are equally fast on all nodes",
        why: "a machine that moves to another node must not find a slower network there",
        says: &["adapter `…` has … Mb/s on … and … Mb/s on …"],
        help: "use the same NICs in every node, and see that all have negotiated their full speed",
    }
    NIC_DRIVERS_DIFFER "nic.drivers-differ" {
        title: "the NICs of an adapter have the same driver on all nodes",
        why: "other NICs have other queues, offloads and faults: one of them fails where the others don't",
        says: &["adapter `…` has driver … on … and … on …"],
        help: "use the same NICs in every node",
    }
    NIC_RDMA_DIFFERS "nic.rdma-differs" {
        title: "where RDMA is asked for, all nodes have it on an adapter or none has",
        why: "RDMA needs it at both ends; a node without it is slower than its peers for everybody",
        says: &["adapter `…` has RDMA on … and none on …"],
        help: "use NICs with RDMA in every node, and see that the kernel has their RDMA driver",
        milder: Some(EMULATED),
    }
    NIC_RDMA_MISSING "nic.rdma-missing" {
        title: "where RDMA is asked for, the NICs have it",
        why: "without it storage goes over TCP: it works, and costs processor time",
        says: &["adapter `…` of intent `…` has no RDMA on any node"],
        help: "use NICs with RDMA and see that the kernel has their RDMA driver, or don't ask for it",
        severity: Severity::Warning,
        milder: Some(EMULATED),
    }
    NIC_TOO_SLOW "bandwidth.nic-too-slow" {
        title: "a storage NIC has at least 10 Gb/s",
        why: "every write goes to the other rack before it is acknowledged",
        says: &["… has …; storage needs …"],
        help: "use NICs of 25 Gb/s or more for storage, and see that they have negotiated their full speed",
        milder: Some(EMULATED),
    }
    NIC_BELOW_RECOMMENDED "bandwidth.nic-below-recommended" {
        title: "a storage NIC has 25 Gb/s or more",
        why: "a node's flash is faster than 10 Gb/s",
        says: &["… has …; … are recommended for storage"],
        help: "use NICs of 25 Gb/s or more for storage",
        severity: Severity::Note,
    }
    NIC_SPEED_UNKNOWN "bandwidth.nic-speed-unknown" {
        title: "a storage NIC tells its speed",
        why: "what isn't known can't be held against the rule on bandwidth",
        says: &["… doesn't tell its speed"],
        help: "see that the NIC has carrier; look at its speed by hand",
        severity: Severity::Warning,
        milder: Some(EMULATED),
    }
    STORAGE_NIC_SPEEDS_DIFFER "bandwidth.nic-speeds-differ" {
        title: "all storage NICs are equally fast",
        why: "a write waits for the slowest copy",
        says: &["… has …, … has …: all storage NICs need the same"],
        help: "use the same NICs in every node, and see that all have negotiated their full speed",
        milder: Some(EMULATED),
    }
    DRIVE_NONE "drive.none" {
        title: "every node has a data drive",
        why: "a node holds copies; without a drive its rack has one node fewer for them",
        says: &["… has no data drive"],
        help: "plug drives in, or see that the kernel finds them",
    }
    DRIVE_MISSING "drive.missing" {
        title: "a drive that is named is there",
        why: "a serial number that no drive has is a slip, or a drive that died",
        says: &["… has no drive with serial number …"],
        help: "see that the drive is plugged in and answers, or name another",
    }
    DRIVE_NOT_FLASH "drive.not-flash" {
        title: "every data drive is flash: NVMe or SSD",
        why: "a rotating drive in a mirror makes every write wait for it",
        says: &["drive … of … is a rotating one"],
        help: "use NVMe or SSD drives for data",
    }
    DRIVE_COUNTS_DIFFER "drive.counts-differ" {
        title: "all nodes have the same number of data drives",
        why: "copies are spread evenly: what one node has more is never used",
        says: &["… has … data drives and … has …"],
        help: "give every node the same number of data drives",
    }
    DRIVE_CLASSES_DIFFER "drive.classes-differ" {
        title: "all nodes have data drives of the same classes",
        why: "a copy on a slower class holds up the other copies",
        says: &["… has … and … has …"],
        help: "give every node the same drives",
    }
    DRIVE_SIZES_DIFFER "drive.sizes-differ" {
        title: "the data drives of the nodes, from the largest to the smallest, differ by no more than 10 percent in size",
        why: "the smallest node says how much the cluster holds",
        says: &["drive … of … has … bytes and drive … of … has …"],
        help: "give every node drives of the same size",
    }
    DRIVE_FOREIGN_DATA "drive.foreign-data" {
        title: "no data drive holds a file system, a partition table or other data of somebody else",
        why: "what is on it would be lost",
        says: &["drive … is not taken"],
        help: "name another drive, or copy away what it holds",
        on_override: Override::By { how: "twinrack drive add --wipe", costs: "what the drive holds is lost" },
    }
}
