//! Links are given back as they were found, whatever dies in the middle.

use super::deaths::{Death, Life, World, unnumbered};
use super::*;
use crate::network::saved::{Disk, Stage};
use api::WayHome;

fn found() -> CurrentLinks {
    Simulated::new().links()
}

#[tokio::test(start_paused = true)]
async fn what_was_found_is_there_again_and_the_plan_is_not_made_any_more() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    assert_eq!(agent.way_home().await.unwrap(), WayHome::default());
    assert!(!agent.give_back().await.unwrap().changed, "there is nothing to give back");
    agent.apply(request(plan(1, 711), None)).await.unwrap();
    agent.apply(request(plan(2, 712), Some(30_000))).await.unwrap();
    let refused = refused(agent.give_back().await);
    assert_eq!(refused, Refused::Pending { pending: Generation(2) });
    agent.commit(Generation(2)).await.unwrap();

    let way = agent.way_home().await.unwrap();
    assert!(way.unknown.is_none() && way.ops.iter().any(Op::is_removal), "{way:?}");
    assert!(bench.kernel.has_vlan(712), "it was only asked");
    assert!(agent.give_back().await.unwrap().changed);
    assert_eq!(bench.kernel.links(), found());
    assert_eq!(agent.way_home().await.unwrap(), WayHome::default());
    assert!(!agent.give_back().await.unwrap().changed);
    for reboots in [false, true] {
        if reboots {
            bench.reboot();
        }
        let agent = bench.agent().await;
        sleep(Duration::from_hours(1)).await;
        assert_eq!(bench.kernel.links(), found(), "reboots: {reboots}");
        assert_eq!(agent.state().await.unwrap().committed, None);
    }
    // It can be deployed to again, with a newer plan.
    bench.agent().await.apply(request(plan(3, 713), None)).await.unwrap();
    assert!(bench.kernel.has_vlan(713));
}

#[tokio::test(start_paused = true)]
async fn another_boot_finds_its_own() {
    let bench = Bench::new();
    bench.agent().await.apply(request(plan(1, 711), None)).await.unwrap();
    bench.reboot();
    // The host has come up otherwise this time.
    let mtu = |links: &CurrentLinks| links.get(&"eth3".parse().unwrap()).unwrap().mtu_bytes;
    bench.kernel.links.lock().unwrap().links.values_mut().for_each(|link| link.mtu_bytes = 9000);
    let agent = bench.agent().await;
    assert!(bench.kernel.has_vlan(711) && mtu(&bench.kernel.links()) == 1500);
    assert!(agent.give_back().await.unwrap().changed);
    assert_eq!((mtu(&bench.kernel.links()), bench.kernel.has_vlan(711)), (9000, false));
}

/// Written by an agent that kept no record of what it found.
#[tokio::test(start_paused = true)]
async fn what_nobody_wrote_down_is_not_guessed() {
    let bench = Bench::new();
    let agent = bench.agent().await;
    agent.apply(request(plan(1, 711), None)).await.unwrap();
    agent.state.lock().await.saved.found = None;
    assert!(agent.way_home().await.unwrap().unknown.is_some());
    let given = agent.give_back().await.unwrap();
    assert!(!given.changed && given.unknown.is_some());
    assert!(bench.kernel.has_vlan(711));
    // The next boot has no plan.
    bench.reboot();
    let agent = bench.agent().await;
    sleep(Duration::from_hours(1)).await;
    assert_eq!((bench.kernel.links(), agent.give_back().await.unwrap().changed), (found(), false));
}

/// Every step of giving back is the last one of an agent or its machine, and every step of the agent that comes then, too.
#[tokio::test(start_paused = true)]
async fn who_dies_at_any_step_gives_back_when_asked_again() {
    for deaths in
        [Death::Agent, Death::Machine].map(|one| [Death::Agent, Death::Machine].map(|two| [one, two]))
    {
        for deaths in deaths {
            let mut ends = 0;
            for first in 0.. {
                let mut survived = [false; 2];
                for second in 0.. {
                    survived = dies_twice(deaths, [first, second]).await;
                    ends += 1;
                    if survived[1] {
                        break;
                    }
                }
                if survived[0] {
                    break;
                }
            }
            assert!(ends > 10, "{deaths:?}: only {ends}");
        }
    }
}

async fn dies_twice(deaths: [Death; 2], steps: [usize; 2]) -> [bool; 2] {
    let what = format!("{deaths:?} dead after {steps:?} steps");
    let world = World::new().await;
    let lives = steps.map(Life::of);
    let mut survived = [false; 2];
    for (at, (life, death)) in lives.iter().zip(deaths).enumerate() {
        if let Some(agent) = world.agent(life).await {
            // The first is asked; the second comes to put right what is there.
            if at == 0 {
                let _ = tokio::spawn(async move { agent.give_back().await }).await;
            }
            sleep(Duration::from_hours(1)).await;
        }
        survived[at] = !life.has_ended();
        world.after(life, death);
    }
    let agent = world.agent(&Life::of(usize::MAX)).await.unwrap();
    sleep(Duration::from_hours(1)).await;
    let (links, saved) = (unnumbered(world.outlives.kernel.links()), world.outlives.load().unwrap());
    let bare = unnumbered(found());
    let kept = saved.committed.is_some();
    assert_eq!(
        links,
        if kept { world.old.clone() } else { bare.clone() },
        "{what}: neither one nor the other"
    );
    assert!(!matches!(saved.stage, Stage::Open { .. }), "{what}");
    agent.give_back().await.unwrap();
    assert_eq!(unnumbered(world.outlives.kernel.links()), bare, "{what}");
    let memory = agent.state.lock().await.saved.clone();
    assert_eq!((memory.committed.clone(), memory), (None, world.outlives.load().unwrap()), "{what}");
    survived
}
