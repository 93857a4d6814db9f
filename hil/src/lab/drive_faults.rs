//! What goes wrong with data drives, and how it ends.
//!
//! Errors, slowness and standing still are orders to the lab's drives alone. A drive is pulled in two steps: its
//! device is taken from QEMU, which asks the guest to let go of it, then it loses its power. Its blocks stay with the lab's drives, so that it
//! can be put back. It answers until its device is gone: one that is pulled out of a machine reports no errors, and the product must tell the
//! one from the other.
//!
//! Invariants: a drive that is pulled stays pulled when its node's power is cycled. Mending may be repeated.
//!
//! On failure: [`LabError`]. A guest that doesn't let go of a device within the bound is the lab's failure: the stock kernel does so in
//! a second.

use super::faults::Made;
use super::power::Power;
use super::qemu::{data_drive_blocks, data_drive_device, data_drive_id};
use super::{Lab, LabError, LabNode};
use drives::DriveState;
use drives::fault::Fault;
use model::{DriveSerial, NodeName};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a guest has to let go of a drive's device.
const UNPLUG_BOUND: Duration = Duration::from_secs(15);
/// How often it is looked whether it has.
const UNPLUG_POLL: Duration = Duration::from_millis(20);

impl Lab {
    /// Something is wrong with a drive of a node from now on; gives what was made.
    pub(crate) async fn break_drive(
        &mut self,
        node: &NodeName,
        drive: &DriveSerial,
        fault: Fault,
    ) -> Result<Made, LabError> {
        let made = Made::Drive { node: node.clone(), drive: drive.clone(), fault };
        self.faults.push(made.clone());
        if fault == Fault::Pulled {
            self.node_mut(node)?.pull(drive).await?;
            self.drives.lose_power(drive)?;
        }
        self.drives.fault(drive, fault)?;
        Ok(made)
    }

    /// Nothing is wrong with a drive any more, and it is plugged in.
    pub(crate) async fn mend_drive(&mut self, node: &NodeName, drive: &DriveSerial) -> Result<(), LabError> {
        self.drives.fault(drive, Fault::None)?;
        self.node_mut(node)?.put_back(drive).await?;
        self.faults.retain(|made| !matches!(made, Made::Drive { drive: known, .. } if known == drive));
        Ok(())
    }

    /// What is wrong with a drive.
    pub(crate) fn drive_state(&mut self, drive: &DriveSerial) -> Result<DriveState, LabError> {
        let states = self.drives.states()?;
        let found = states.into_iter().find(|state| state.drive == *drive);
        found.ok_or_else(|| LabError::NoSuchDrive { drive: drive.to_string() })
    }

    fn node_mut(&mut self, name: &NodeName) -> Result<&mut LabNode, LabError> {
        self.nodes.get_mut(name).ok_or_else(|| LabError::Missing { node: name.to_string() })
    }
}

impl LabNode {
    /// A data drive by its place on the bus among them, from 1.
    pub(crate) fn data_drive(&self, number: u8) -> Option<DriveSerial> {
        let at = usize::from(number).checked_sub(1)?;
        self.plan.data_drives().nth(at).map(|(_, drive)| drive.serial.clone())
    }

    /// QEMU's arguments for the drives that are plugged in.
    pub(super) fn arguments(&self) -> Vec<String> {
        let pulled: Vec<String> =
            self.pulled.iter().filter_map(|drive| self.place(drive)).map(data_drive_id).collect();
        without(&self.machine.arguments, &pulled)
    }

    fn place(&self, serial: &DriveSerial) -> Option<usize> {
        self.plan.data_drives().find(|(_, drive)| drive.serial == *serial).map(|(index, _)| index)
    }

    fn known_place(&self, serial: &DriveSerial) -> Result<usize, LabError> {
        self.place(serial).ok_or_else(|| LabError::NoSuchDrive { drive: serial.to_string() })
    }

    async fn pull(&mut self, serial: &DriveSerial) -> Result<(), LabError> {
        let index = self.known_place(serial)?;
        if !self.pulled.insert(serial.clone()) {
            return Ok(());
        }
        self.tell("device_del", json!({ "id": data_drive_id(index) })).await?;
        let deadline = Instant::now() + UNPLUG_BOUND;
        while self.is_in_use(&data_drive_blocks(index)).await? {
            if Instant::now() >= deadline {
                return Err(LabError::Unplug {
                    node: self.plan.name.to_string(),
                    drive: serial.to_string(),
                    bound: UNPLUG_BOUND,
                });
            }
            sleep(UNPLUG_POLL).await;
        }
        Ok(())
    }

    async fn put_back(&mut self, serial: &DriveSerial) -> Result<(), LabError> {
        let index = self.known_place(serial)?;
        if self.pulled.remove(serial) {
            self.tell("device_add", data_drive_device(index, serial)).await?;
        }
        Ok(())
    }

    /// Whether a device uses a drive's blocks. QEMU forgets a device's name a moment before it lets go of them.
    async fn is_in_use(&mut self, blocks: &str) -> Result<bool, LabError> {
        let listed = self.tell("query-block", Value::Null).await?;
        let used = listed.as_array().map_or(&[][..], Vec::as_slice);
        Ok(used.iter().any(|one| one["inserted"]["node-name"] == blocks))
    }

    /// Tells the node's QEMU; null if it is off.
    async fn tell(&mut self, command: &str, arguments: Value) -> Result<Value, LabError> {
        let Power::On { qmp, .. } = &mut self.power else { return Ok(Value::Null) };
        let told = qmp.execute(command, arguments).await;
        told.map_err(|source| LabError::Qmp { node: self.plan.name.to_string(), source })
    }
}

/// QEMU's arguments without some devices.
fn without(arguments: &[String], ids: &[String]) -> Vec<String> {
    let is_one = |argument: &str| ids.iter().any(|id| argument.contains(&format!(",id={id},")));
    let mut left: Vec<String> = Vec::new();
    for argument in arguments {
        if is_one(argument) {
            left.pop(); // its `-device`
        } else {
            left.push(argument.clone());
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_is_pulled_is_no_device_and_all_else_stays() {
        let words = "-S -device nvme,drive=data1,id=data1-drive,bus=slot1,serial=a -device \
                     nvme,drive=data11,id=data11-drive,bus=slot11,serial=b";
        let arguments: Vec<String> = words.split_whitespace().map(ToOwned::to_owned).collect();
        let left = without(&arguments, &[data_drive_id(1)]);
        assert_eq!(left.join(" "), "-S -device nvme,drive=data11,id=data11-drive,bus=slot11,serial=b");
        assert_eq!(without(&arguments, &[]), arguments);
    }
}
