//! Plans that go wrong: ones that cut their node off, and agents and machines that die while a plan is applied.
//!
//! They go to the node's API directly, because a deployment would never send them. What must hold: within a bound the node is on its
//! old plan or, where somebody confirmed it, on the new one, exactly, read back from its kernel; it says which; and it reaches
//! every peer. A step begins and ends with the cluster's own plan in force.
//!
//! Nothing here is mended by the lab: a step that fails leaves a plan that takes itself back.

use super::bad_plans::{changed, pairs, spoil};
use super::checks::incomplete;
use super::{POLL, Runner, Seen};
use crate::lab::LabError;
use crate::run::RunError;
use crate::suite::{BadPlan, Death, Room};
use api::{ApplyRequest, Client, ConfirmWithin, NetworkState, Outcome, PingRequest};
use deploy::{DeployError, Member, MeshProbe, mesh, plan_for};
use model::Priority;
use network::{Generation, NetworkPlan, diff};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a plan waits for its confirmation: longer than all that is done meanwhile.
const CONFIRM_WITHIN_MS: u32 = 2500;
/// How long it has to answer. A frozen agent doesn't.
const ANSWER_BOUND: Duration = Duration::from_secs(2);
/// How long probes are waited for that shall not be answered.
const CUT_OFF_MS: u32 = 400;
/// How long a machine is waited for that lost its power; a step's own bound may be shorter.
const BACK_BOUND: Duration = Duration::from_secs(30);
/// A death may come this long before a plan arrives.
const LEAD: Duration = Duration::from_millis(100);

/// A node as it is before something is done to it.
struct Node {
    member: Member,
    boot_id: String,
    /// The newest generation that it has seen.
    newest: Generation,
    /// The generation of the plan that is in force.
    committed: Generation,
    /// Its links.
    plan: NetworkPlan,
}

impl Node {
    /// A plan as the next one of this node.
    fn next(&self, plan: &NetworkPlan) -> NetworkPlan {
        NetworkPlan { generation: Generation(self.newest.0 + 1), ..plan.clone() }
    }

    /// Asks where it stands until `ended` with that, with a bound; says how long after `since` the answer came.
    async fn settled(
        &self,
        since: Instant,
        deadline: Instant,
        ended: impl Fn(&NetworkState) -> bool,
    ) -> Result<(NetworkState, Duration), String> {
        let mut last = "it did not answer".to_owned();
        while Instant::now() < deadline {
            match timeout(ANSWER_BOUND, self.member.client.network()).await {
                Ok(Ok(state)) if ended(&state) => return Ok((state, since.elapsed())),
                Ok(Ok(state)) => last = format!("it {}", where_it_stands(&state)),
                Ok(Err(error)) => last = crate::chain(&error),
                Err(_) => {}
            }
            sleep(POLL).await;
        }
        Err(format!("not back within the bound: {last}"))
    }

    /// What its kernel has other than this plan says.
    fn differences(&self, state: &NetworkState, plan: &NetworkPlan) -> Vec<String> {
        match diff(&state.links, plan, &self.member.adapters) {
            Ok(ops) => ops.iter().map(|op| format!("not as it says, still to do: {op}")).collect(),
            Err(error) => vec![crate::chain(&error)],
        }
    }
}

fn where_it_stands(state: &NetworkState) -> String {
    let NetworkState { generation, pending_ms, taken_back, committed, .. } = state;
    let numbers = (generation.map(|generation| generation.0), pending_ms);
    format!("says generation and pending {numbers:?}, taken back {taken_back:?}, committed {committed:?}")
}

/// Whether the node says that this generation is committed and made.
fn is_committed(state: &NetworkState, generation: Generation) -> bool {
    let committed = state.committed.as_ref();
    committed.is_some_and(|committed| committed.generation == generation && committed.not_made.is_none())
}

fn request(plan: NetworkPlan) -> ApplyRequest {
    ApplyRequest { plan, confirm_within_ms: ConfirmWithin::try_from(CONFIRM_WITHIN_MS).ok() }
}

impl Runner<'_> {
    /// Gives a node a plan that goes wrong, and does not confirm it.
    pub(super) async fn bad_plan(
        &mut self,
        (room, position): (Room, u8),
        what: BadPlan,
        meanwhile: Option<Death>,
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let node = match self.node(room, position).await? {
            Ok(node) => node,
            Err(seen) => return Ok(seen),
        };
        let bad = spoil(what, node.next(&node.plan));
        let generation = bad.generation;
        let (mut since, mut why) = (Instant::now(), "it was not confirmed in time");
        let applied = match node.member.client.apply(&request(bad)).await {
            Ok(applied) => applied,
            Err(error) => return Ok(Seen::not(crate::chain(&error))),
        };
        if what == BadPlan::Unmakeable {
            if !matches!(applied.outcome, Outcome::RolledBack { .. }) || applied.pending {
                return Ok(Seen::not(format!("it was not taken back at once: {:?}", applied.outcome)));
            }
            why = "read back";
        } else if !applied.pending {
            return Ok(Seen::not(format!("it was not taken up: {:?}", applied.outcome)));
        } else if let Some(reached) = self.reached_nonetheless(&node, what).await? {
            return Ok(Seen::not(reached));
        }
        if let Some(death) = meanwhile {
            since = Instant::now();
            why = reason_after(death);
            self.kill(&node, death).await?;
        }
        Ok(match self.back_on_its_plan(&node, generation, why, since, since + bound).await {
            Ok(times) if meanwhile == Some(Death::NodePowerCycled) => match self.boot_id(&node).await {
                Ok(boot_id) if boot_id != node.boot_id => Seen::held(times),
                Ok(_) => Seen::not("the machine did not restart"),
                Err(why) => Seen::not(why),
            },
            Ok(times) => Seen::held(times),
            Err(why) => Seen::not(why),
        })
    }

    /// Waits until the node is on its plan again, says so, and reaches everybody.
    async fn back_on_its_plan(
        &self,
        node: &Node,
        generation: Generation,
        why: &str,
        since: Instant,
        deadline: Instant,
    ) -> Result<String, String> {
        let is_back =
            |state: &NetworkState| state.generation == Some(generation) && state.taken_back.is_some();
        let (state, after) = node.settled(since, deadline, is_back).await?;
        let mut wrong = node.differences(&state, &node.plan);
        let outcome = state.taken_back.as_ref().map(|taken_back| &taken_back.outcome);
        let is_said = matches!(outcome, Some(Outcome::RolledBack { why: said }) if said.contains(why));
        if !is_said || !is_committed(&state, node.committed) {
            wrong.push(format!("it {}, which should be `{why}`", where_it_stands(&state)));
        }
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        let reached = self.everybody_reached(since, deadline).await?;
        let (after, reached) = (after.as_millis(), reached.as_millis());
        Ok(format!("back after {after} ms, every peer reached after {reached} ms"))
    }

    /// Applies two plans in turn, again and again, while the agent or the machine dies at moments from the seed.
    pub(super) async fn die_during_applies(
        &mut self,
        (room, position): (Room, u8),
        death: Death,
        times: u32,
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let mut node = match self.node(room, position).await? {
            Ok(node) => node,
            Err(seen) => return Ok(seen),
        };
        let plans = [node.plan.clone(), changed(node.plan.clone())];
        let started = Instant::now();
        // Undisturbed once: it can be done, and it takes that long.
        let mut tally = Tally::default();
        if let Err(error) = confirm(&mut node, &plans[1]).await {
            return Ok(Seen::not(crate::chain(&error)));
        }
        let span = LEAD + started.elapsed().mul_f64(1.2);
        let mut random = fastrand::Rng::with_seed(self.lab.seed());
        for round in 1..=times {
            let is_own = node.plan.links == plans[0].links;
            let trial = Trial {
                plan: node.next(&plans[usize::from(is_own)]),
                commits: random.bool(),
                dies_after: span.mul_f64(random.f64()),
            };
            if let Err(why) = self.die_once(&mut node, &trial, death, bound, &mut tally).await? {
                let (commits, after) = (trial.commits, trial.dies_after.as_millis());
                let when = format!("round {round}, dead {after} ms into an apply (confirmed: {commits})");
                return Ok(Seen::not(format!("{when}: {why}")));
            }
        }
        if let Err(error) = confirm(&mut node, &plans[0]).await {
            return Ok(Seen::not(crate::chain(&error)));
        }
        Ok(Seen::held(tally.to_string()))
    }

    /// One apply, one death, and what became of the node.
    async fn die_once(
        &mut self,
        node: &mut Node,
        trial: &Trial,
        death: Death,
        bound: Duration,
        tally: &mut Tally,
    ) -> Result<Result<(), String>, RunError> {
        let (told, tell) = watch::channel(Told::Nothing);
        let mut client = tokio::spawn(trial.clone().tell(node.member.client.clone(), told));
        sleep(trial.dies_after).await;
        let since = Instant::now();
        let deadline = since + bound;
        self.kill(node, death).await?;
        // A machine that is gone closes no connection; an agent's are closed by its kernel.
        if death != Death::NodePowerCycled && timeout_at(deadline, &mut client).await.is_err() {
            return Ok(Err("the client got no answer and no end of its connection".to_owned()));
        }
        client.abort();
        let told = *tell.borrow();
        Ok(self.judge(node, trial, told, (since, deadline), tally).await)
    }

    /// Whether the node is on one of the two plans, says on which, and may be on it.
    async fn judge(
        &self,
        node: &mut Node,
        trial: &Trial,
        told: Told,
        (since, deadline): (Instant, Instant),
        tally: &mut Tally,
    ) -> Result<(), String> {
        let (state, after) = node.settled(since, deadline, |state| state.pending_ms.is_none()).await?;
        let generation = trial.plan.generation;
        let end = match (&state.generation, state.taken_back.as_ref().map(|back| &back.outcome)) {
            (Some(newest), _) if *newest == node.newest => End::NotTakenUp,
            (Some(newest), Some(Outcome::RolledBack { .. })) if *newest == generation => End::TakenBack,
            (Some(newest), None) if *newest == generation => End::Kept,
            _ => return Err(format!("it {}", where_it_stands(&state))),
        };
        let is_new = end == End::Kept;
        if is_new && told == Told::Nothing {
            return Err("it is on the new plan, which nobody confirmed".to_owned());
        }
        if !is_new && told == Told::Kept {
            return Err("it is on the old plan after it had said that the new one is confirmed".to_owned());
        }
        let (plan, committed) = if is_new { (&trial.plan, generation) } else { (&node.plan, node.committed) };
        let mut wrong = node.differences(&state, plan);
        if !is_committed(&state, committed) {
            wrong.push(format!("it {}", where_it_stands(&state)));
        }
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        let reached = self.everybody_reached(since, deadline).await?;
        tally.note(end, after, reached);
        if end != End::NotTakenUp {
            node.newest = generation;
        }
        node.boot_id = self.boot_id(node).await?;
        if is_new {
            node.committed = generation;
            node.plan = trial.plan.clone();
        }
        Ok(())
    }

    async fn boot_id(&self, node: &Node) -> Result<String, String> {
        node.member.client.hello().await.map(|hello| hello.boot_id).map_err(|error| crate::chain(&error))
    }

    /// A node as the suite calls it, with the cluster's plan in force.
    async fn node(&self, room: Room, position: u8) -> Result<Result<Node, Seen>, LabError> {
        let no_node = || LabError::NoSuchNode { room: room.index() + 1, position };
        let zone = self.cluster.spec.zones.get(room.index()).ok_or_else(no_node)?;
        let index = usize::from(position).checked_sub(1).ok_or_else(no_node)?;
        let name = &zone.nodes.get(index).ok_or_else(no_node)?.name;
        let mut members = self.cluster.members.iter();
        let member = members.find(|member| member.name == *name).ok_or_else(no_node)?.clone();
        let asked = async {
            let (hello, state) = (member.client.hello().await?, member.client.network().await?);
            let newest = state.generation.unwrap_or(Generation(0));
            let plan = plan_for(&self.cluster, &member, newest)?;
            Ok::<_, DeployError>((hello.boot_id, newest, plan, state))
        };
        let (boot_id, newest, plan, state) = match asked.await {
            Ok(answers) => answers,
            Err(error) => return Ok(Err(Seen::not(crate::chain(&error)))),
        };
        let committed = state.committed.as_ref().map_or(newest, |committed| committed.generation);
        let node = Node { member, boot_id, newest, committed, plan };
        let mut wrong = node.differences(&state, &node.plan);
        if !is_committed(&state, committed) || state.pending_ms.is_some() {
            wrong.push(format!("it {}", where_it_stands(&state)));
        }
        let wrong = wrong.join("\n");
        Ok(if wrong.is_empty() { Ok(node) } else { Err(Seen::not(format!("to begin with: {wrong}"))) })
    }

    /// Lets the agent or the machine die. Returns when it is dead; the machine, when it is up again.
    async fn kill(&mut self, node: &Node, death: Death) -> Result<(), LabError> {
        let name = &node.member.name;
        let missing = || LabError::Missing { node: name.to_string() };
        let signal = match death {
            Death::AgentKilled => "9",
            Death::AgentFrozen => "19", // SIGSTOP on x86 and ARM (signal(7))
            Death::NodePowerCycled => {
                // If it does not come back, whoever asks it next finds that out.
                let _ = self.lab.power_cycle(self.keeper, name, BACK_BOUND).await?;
                return Ok(());
            }
        };
        let killed = async {
            let mut hands = self.lab.nodes().get(name).ok_or_else(missing)?.hands_or_lab_error().await?;
            let killed = hands.run(&["@kill", signal, "twinrackd"]).await;
            killed.map_err(|source| LabError::Hands { node: name.to_string(), source })
        };
        // Status 1: no process of that name. The agent is just being started again, which is a moment as good as another.
        killed.await.map(drop)
    }

    /// Says what the node still reaches of what it was cut off from.
    async fn reached_nonetheless(&self, node: &Node, what: BadPlan) -> Result<Option<String>, RunError> {
        for (source, target) in pairs(&self.cluster.spec, &node.member.name, what) {
            let answer = node.member.client.ping(&probe(source, target)).await.map_err(DeployError::Ask)?;
            if answer.received > 0 {
                return Ok(Some(format!("{source} reaches {target} with a plan that should cut it off")));
            }
        }
        Ok(None)
    }

    /// Waits until every member reaches every other on every network.
    async fn everybody_reached(&self, since: Instant, deadline: Instant) -> Result<Duration, String> {
        let mut last = "there was no time left to look".to_owned();
        while Instant::now() < deadline {
            match mesh(&self.cluster, MeshProbe::REACH).await.map(|trips| incomplete(&trips)) {
                Ok(gone) if gone.is_empty() => return Ok(since.elapsed()),
                Ok(gone) => last = gone.join("\n"),
                Err(error) => last = crate::chain(&error),
            }
            sleep(POLL).await;
        }
        Err(format!("not every peer is reached within the bound:\n{last}"))
    }
}

fn probe(source: Ipv4Addr, target: Ipv4Addr) -> PingRequest {
    PingRequest {
        source,
        target,
        device: None,
        count: 1,
        interval_us: 1000,
        payload_bytes: 56,
        dont_fragment: true,
        priority: Priority::DEFAULT,
        deadline_ms: CUT_OFF_MS,
    }
}

/// What a node says of a plan that was pending when this happened.
fn reason_after(death: Death) -> &'static str {
    match death {
        Death::AgentKilled | Death::AgentFrozen => "the agent restarted before it was confirmed",
        Death::NodePowerCycled => "the node restarted before it was confirmed",
    }
}

/// Applies a plan and confirms it.
async fn confirm(node: &mut Node, plan: &NetworkPlan) -> Result<(), api::ClientError> {
    if node.plan.links == plan.links {
        return Ok(());
    }
    let plan = node.next(plan);
    node.member.client.apply(&request(plan.clone())).await?;
    node.member.client.commit(plan.generation).await?;
    (node.newest, node.committed) = (plan.generation, plan.generation);
    node.plan = plan;
    Ok(())
}

/// One apply, and when what dies.
#[derive(Debug, Clone)]
struct Trial {
    plan: NetworkPlan,
    commits: bool,
    /// After the client began.
    dies_after: Duration,
}

/// What a client has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It has not confirmed the plan.
    Nothing,
    /// It has asked to keep it.
    Asked,
    /// It was told that it is kept.
    Kept,
}

impl Trial {
    /// What the client does, as far as it gets.
    async fn tell(self, client: Client, told: watch::Sender<Told>) {
        sleep(LEAD).await;
        let generation = self.plan.generation;
        let applied = client.apply(&request(self.plan)).await;
        if self.commits && applied.is_ok_and(|applied| applied.pending) {
            told.send_replace(Told::Asked);
            if client.commit(generation).await.is_ok() {
                told.send_replace(Told::Kept);
            }
        }
    }
}

/// How one apply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotTakenUp,
    TakenBack,
    Kept,
}

/// How all of them ended.
#[derive(Debug, Default)]
struct Tally {
    ends: Vec<End>,
    back: Vec<Duration>,
    reached: Vec<Duration>,
}

impl Tally {
    fn note(&mut self, end: End, back: Duration, reached: Duration) {
        self.ends.push(end);
        self.back.push(back);
        self.reached.push(reached);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |end| self.ends.iter().filter(|other| **other == end).count();
        let (before, back, kept) = (count(End::NotTakenUp), count(End::TakenBack), count(End::Kept));
        let longest = |times: &[Duration]| times.iter().max().map_or(0, Duration::as_millis);
        write!(
            f,
            "{} deaths: {before} before the plan was taken up, {back} with it taken back, {kept} with it kept; \
             back after {} ms at most, every peer reached after {} ms",
            self.ends.len(),
            longest(&self.back),
            longest(&self.reached)
        )
    }
}
