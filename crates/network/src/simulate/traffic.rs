//! What the simulated kernel does with operations on outgoing traffic (`net/sched/sch_api.c`, `cls_api.c`, `net/dcb/dcbnl.c`).

use super::{Refused, link_mut};
use crate::link::{CurrentLinks, LinkName};
use crate::traffic::{DcbEts, DcbPfc, Filter, Marks, Queue};
use std::collections::BTreeMap;

pub(super) fn set_queue(state: &mut CurrentLinks, name: &LinkName, queue: &Queue) -> Result<(), Refused> {
    let link = link_mut(state, name)?;
    if !queue.can_be_made() {
        return Err(Refused::NotTold(name.clone()));
    }
    link.traffic.queue = queue.clone();
    Ok(())
}

pub(super) fn add_classifier(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    let marks = &mut link_mut(state, name)?.traffic.marks;
    if *marks != Marks::None {
        return Err(Refused::NotA { name: name.clone(), expected: "without a place for filters" });
    }
    *marks = Marks::Filters(BTreeMap::new());
    Ok(())
}

pub(super) fn remove_classifier(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    link_mut(state, name)?.traffic.marks = Marks::None;
    Ok(())
}

pub(super) fn add_filter(
    state: &mut CurrentLinks,
    name: &LinkName,
    preference: u16,
    filter: &Filter,
) -> Result<(), Refused> {
    let filters = filters(state, name)?;
    if matches!(filter, Filter::Other(_)) {
        return Err(Refused::NotTold(name.clone()));
    }
    if filters.insert(preference, filter.clone()).is_some() {
        return Err(Refused::NotA { name: name.clone(), expected: "free of a filter of that preference" });
    }
    Ok(())
}

pub(super) fn remove_filter(
    state: &mut CurrentLinks,
    name: &LinkName,
    preference: u16,
) -> Result<(), Refused> {
    filters(state, name)?.remove(&preference);
    Ok(())
}

fn filters<'a>(
    state: &'a mut CurrentLinks,
    name: &LinkName,
) -> Result<&'a mut BTreeMap<u16, Filter>, Refused> {
    match &mut link_mut(state, name)?.traffic.marks {
        Marks::Filters(filters) => Ok(filters),
        Marks::None => Err(Refused::NotA { name: name.clone(), expected: "a link with a place for filters" }),
    }
}

pub(super) fn set_dcb_ets(state: &mut CurrentLinks, name: &LinkName, to: &DcbEts) -> Result<(), Refused> {
    let dcb = link_mut(state, name)?.traffic.dcb.as_mut();
    let ets = dcb.and_then(|dcb| dcb.ets.as_mut());
    *ets.ok_or_else(|| no_dcb(name))? = to.clone();
    Ok(())
}

pub(super) fn set_dcb_pfc(state: &mut CurrentLinks, name: &LinkName, to: DcbPfc) -> Result<(), Refused> {
    let dcb = link_mut(state, name)?.traffic.dcb.as_mut();
    let pfc = dcb.and_then(|dcb| dcb.pfc.as_mut());
    *pfc.ok_or_else(|| no_dcb(name))? = to;
    Ok(())
}

fn no_dcb(name: &LinkName) -> Refused {
    Refused::NotA { name: name.clone(), expected: "a NIC with DCB" }
}
