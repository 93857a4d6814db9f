//! Nodes that reset themselves: a last resort of theirs, which a scenario may allow.

use super::{Runner, Seen};
use crate::events::Event;
use crate::lab::{LabError, Reset};

impl Runner<'_> {
    /// From now on a node that resets itself is no death of the lab's.
    pub(crate) fn let_nodes_reset(&self) {
        self.keeper.let_nodes_reset();
    }

    /// Starts those again that have reset themselves. One whose power was taken since stays off until that is given back.
    pub(super) async fn after_resets(&mut self) -> Result<(), LabError> {
        for Reset { node, lost_power } in self.keeper.take_resets() {
            self.log.log(Event::NodeReset { node: node.to_string() });
            if !lost_power {
                self.writer_reset(&node);
                self.lab.after_reset(self.keeper, &node).await?;
            }
            self.resets.push(node);
        }
        Ok(())
    }

    /// Whether nodes have reset themselves in this scenario, and no more often than it allows; nothing, if none did and none may.
    pub(super) fn judge_resets(&mut self, at_most: usize) -> Option<Seen> {
        let resets = std::mem::take(&mut self.resets);
        let names: Vec<String> = resets.iter().map(ToString::to_string).collect();
        let what = format!("{} resets: {}", names.len(), names.join(", "));
        let seen = if names.len() > at_most { Seen::not(what) } else { Seen::held(what) };
        (at_most > 0 || !names.is_empty()).then_some(seen)
    }
}
