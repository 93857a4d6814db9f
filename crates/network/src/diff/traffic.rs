//! The part of a diff that is about outgoing traffic.
//!
//! What can't be made from what is known of it (a queue with classes, a filter of others) is tried last and fails there, so that
//! a way back that is not whole says so.

use super::{DiffError, Planner};
use crate::link::{DesiredLink, LinkName};
use crate::op::Op;
use crate::simulate::Refused;
use crate::traffic::{Dcb, DcbEts, DcbPfc, Marks};
use std::collections::BTreeMap;

impl Planner<'_> {
    /// Before a link comes up: nothing leaves it that is not marked.
    pub(super) fn settle_traffic(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        if let Some(queue) = &wanted.traffic.queue
            && self.state.links[name].traffic.queue != *queue
        {
            self.emit_or_fail_last(Op::SetQueue { name: name.clone(), queue: queue.clone() })?;
        }
        if let Some(marks) = &wanted.traffic.marks {
            self.settle_marks(name, marks)?;
        }
        let Dcb { ets, pfc } = self.state.links[name].traffic.dcb.clone().unwrap_or_default();
        if let (Some(now), Some(ets)) = (ets, &wanted.traffic.dcb_ets)
            && !same_ets(&now, ets)
        {
            self.emit(Op::SetDcbEts { name: name.clone(), ets: ets.clone() })?;
        }
        if let (Some(now), Some(pfc)) = (pfc, wanted.traffic.dcb_pfc)
            && !same_pfc(now, pfc)
        {
            self.emit(Op::SetDcbPfc { name: name.clone(), pfc })?;
        }
        Ok(())
    }

    fn settle_marks(&mut self, name: &LinkName, wanted: &Marks) -> Result<(), DiffError> {
        let now = self.state.links[name].traffic.marks.clone();
        let name = name.clone();
        let (wanted, now) = match (wanted, now) {
            (Marks::None, Marks::None) => return Ok(()),
            (Marks::None, Marks::Filters(_)) => return self.emit(Op::RemoveClassifier { name }),
            (Marks::Filters(wanted), Marks::Filters(now)) => (wanted, now),
            (Marks::Filters(wanted), Marks::None) => {
                self.emit(Op::AddClassifier { name: name.clone() })?;
                (wanted, BTreeMap::new())
            }
        };
        for preference in now.iter().filter(|(at, filter)| wanted.get(at) != Some(filter)).map(|(at, _)| *at)
        {
            self.emit(Op::RemoveFilter { name: name.clone(), preference })?;
        }
        for (preference, filter) in wanted.iter().filter(|(at, filter)| now.get(at) != Some(filter)) {
            let (preference, filter) = (*preference, filter.clone());
            self.emit_or_fail_last(Op::AddFilter { name: name.clone(), preference, filter })?;
        }
        Ok(())
    }

    fn emit_or_fail_last(&mut self, op: Op) -> Result<(), DiffError> {
        match self.emit(op.clone()) {
            Err(DiffError::Refused { source: Refused::NotTold(_), .. }) => {
                if !self.last.contains(&op) {
                    self.last.push(op);
                }
                Ok(())
            }
            done => done,
        }
    }
}

/// Of a NIC's ETS, what twinrack sets: what drivers report of the rest they need not keep.
pub(crate) fn same_ets(now: &DcbEts, wanted: &DcbEts) -> bool {
    let set = |ets: &DcbEts| (ets.willing, ets.transmit_percent, ets.selection, ets.class_of);
    set(now) == set(wanted)
}

pub(crate) fn same_pfc(now: DcbPfc, wanted: DcbPfc) -> bool {
    now.enabled == wanted.enabled
}
