//! Rules about addresses and subnets.

super::rules! { ADDRESS_RULES, Template:
    ADDRESS_VALID "address.valid" {
        title: "addresses and subnets are valid IPv4",
        why: "an address that can't be read can't be given to a machine",
        says: &["`…` is no IPv4 address", "`…` is no IPv4 subnet", "`…` is an address inside a subnet", "`…` is no subnet mask"],
        help: "correct it",
    }
    ADDRESS_STATIC "address.static" {
        title: "management addresses are given, not asked of DHCP",
        why: "nodes must find each other when whoever gives out addresses is down",
        says: &["the addresses would come from DHCP"],
        help: "set `useDhcp` to false and give every node an address",
    }
    ADDRESS_IN_SUBNET "address.in-subnet" {
        title: "management addresses are inside the management subnet",
        why: "what is outside is reached over a router, if at all",
        says: &["… has …, which is outside …", "… has …, which is the network address of …", "… has …, which is the broadcast address of …"],
        help: "use an address of the subnet",
    }
    ADDRESS_OUTSIDE_RANGE "address.outside-range" {
        title: "management addresses are outside the infrastructure range",
        why: "the range is given out to what the cluster runs; an address in it will be somebody else's, too",
        says: &["… has …, inside the infrastructure range …–…"],
        help: "move the address or the range",
        on_override: Override::ById { costs: "that address must then never be handed out from the range" },
    }
    ADDRESS_UNIQUE "address.unique" {
        title: "no address is used twice",
        why: "two machines with one address answer for each other",
        says: &["… has …, and so has …", "the gateway … is inside the infrastructure range"],
        help: "give each machine its own address",
    }
    ADDRESS_GATEWAY_IN_SUBNET "address.gateway-in-subnet" {
        title: "the gateway is inside the management subnet",
        why: "a gateway outside can't be reached, and with it nothing else",
        says: &["the gateway has …, which is outside …", "the gateway has …, which is the … address of …"],
        help: "use an address of the subnet",
    }
    ADDRESS_RANGE_ORDER "address.range-order" {
        title: "the infrastructure range starts before it ends",
        why: "a range that ends before it starts is empty",
        says: &["the range starts at … and ends at …"],
        help: "swap start and end",
    }
    ADDRESS_RANGE_IN_SUBNET "address.range-in-subnet" {
        title: "the infrastructure range is inside the management subnet",
        why: "what gets an address of the range talks to management",
        says: &["the range's start has …, which is … …", "the range's end has …, which is … …"],
        help: "use addresses of the subnet",
    }
    ADDRESS_RANGE_SIZE "address.range-size" {
        title: "the infrastructure range has at least six addresses",
        why: "that is what a cluster's own services need",
        says: &["the range …–… has … addresses"],
        help: "make the range larger",
    }
    STORAGE_SUBNET_GIVEN "address.storage-subnet-given" {
        title: "with storage auto IP off, an ARM file gives each storage network's addresses",
        why: "who switches the usual subnets off has to say others",
        says: &["… with mask … is not in one subnet with the others", "storage auto IP is off, and `…` gives no addresses"],
        help: "set `enableStorageAutoIp` to true, or give `storageAdapterIPInfo` for every node",
    }
    STORAGE_SUBNET_SIZE "address.storage-subnet-size" {
        title: "a storage subnet has an address for every node",
        why: "a node's storage address is the subnet's base plus its ordinal",
        says: &["… has …, too small for … nodes"],
        help: "use a larger subnet",
    }
    STORAGE_NOT_MANAGEMENT "address.storage-not-management" {
        title: "storage subnets don't overlap the management subnet",
        why: "storage addresses are never routed, and nothing of storage leaves by management's NICs",
        says: &["… has …, which overlaps management's …"],
        help: "use another subnet; 10.71.1.0/24 and 10.71.2.0/24 are usual",
    }
    STORAGE_SUBNETS_DISJOINT "address.storage-subnets-disjoint" {
        title: "storage subnets don't overlap each other",
        why: "the kernel would choose a path by itself, and always the same",
        says: &["… has …, which overlaps … of …"],
        help: "give each storage network its own subnet",
    }
}
