//! What a virtual machine's serial port says, wherever it is.
//!
//! Places in what was said are counted on each node and in each of its boots anew: whoever listens on goes on where it was only while the node is the same.

use super::{VmsError, told};
use crate::Member;
use crate::pool::confirmed;
use control::vm::Vm;
use model::{NodeId, VmId};
use std::time::Duration;

/// What was heard, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Where it said it.
    pub node: NodeId,
    /// That node's name.
    pub name: String,
    /// Whether something between this and what was heard before is not kept any more, or was said elsewhere.
    pub is_torn: bool,
    /// What comes next there.
    pub end: u64,
    /// The text.
    pub text: String,
}

/// What one said after what was `heard` before; from what is kept of it on, if nothing was, or if it is on another node now. `None`: it never ran.
pub async fn hear(
    members: &[Member],
    id: VmId,
    heard: Option<&Heard>,
    bound: Duration,
) -> Result<Option<Heard>, VmsError> {
    let (_, state) = confirmed(members, bound).await?;
    let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
    let Some(node) = speaks_at(vm) else { return Ok(None) };
    let name = told::name_of(&state, node);
    let member = members.iter().find(|member| member.name.to_string() == name);
    let member = member.ok_or_else(|| VmsError::NoWay { id, node: name.clone() })?;
    let from = begins(heard, node);
    let failed = |source| VmsError::Console { id, source: Box::new(source) };
    let mut said = member.client.console(id, from).await.map_err(failed)?;
    // The node has booted anew, and counts from the start.
    let is_anew = said.end < from;
    if is_anew {
        said = member.client.console(id, 0).await.map_err(failed)?;
    }
    let is_torn = is_anew || heard.is_some_and(|heard| heard.node != node || heard.end != said.from);
    Ok(Some(Heard { node, name, is_torn, end: said.end, text: said.text }))
}

/// Where it is, or was last.
fn speaks_at(vm: &Vm) -> Option<NodeId> {
    vm.phase.seat().map(|seat| seat.node).or(vm.last)
}

fn begins(heard: Option<&Heard>, node: NodeId) -> u64 {
    heard.filter(|heard| heard.node == node).map_or(0, |heard| heard.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_goes_on_only_on_the_same_node() {
        let heard =
            Heard { node: NodeId(1), name: "a1".to_owned(), is_torn: false, end: 7, text: String::new() };
        assert_eq!(begins(Some(&heard), NodeId(1)), 7);
        assert_eq!(begins(Some(&heard), NodeId(2)), 0);
        assert_eq!(begins(None, NodeId(1)), 0);
    }
}
