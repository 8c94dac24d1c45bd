//! Choices between packs and pushes, without a process.

use super::*;

fn rules(total: usize) -> Rules {
    Rules {
        packs: total,
        pushes: 1,
        memory: u64::MAX,
        queue: 3,
        longest: Duration::from_secs(60),
        both: true,
    }
}

fn address(last: u8) -> Whose {
    Whose::Address(std::net::Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped().octets())
}

fn user(name: &str) -> Whose {
    Whose::User(format!("user:{name}"))
}

/// Jobs that wait, of each in this order, each for a repository of its own.
fn jobs(whose: &[Whose], most: usize) -> Vec<Job> {
    let start = Instant::now();
    let job = |(n, whose): (u64, &Whose)| {
        let wait = Wait { since: start + Duration::from_millis(n), told: None };
        let turn = Turn { stage: Stage::Waiting(wait), ..Turn::asked(Work::Pack, 0) };
        Job { number: n, whose: whose.clone(), repository: (1, n), most, turn }
    };
    (0..).zip(whose).map(job).collect()
}

/// Lets packs run, the one that began first being done first, and returns who got them in which order.
fn order(mut jobs: Vec<Job>, rules: Rules) -> Vec<Whose> {
    let (mut got, mut turns, mut begun) = (Vec::new(), VecDeque::new(), VecDeque::new());
    loop {
        while let Some(number) = next(&jobs, rules, &turns).map(|job| job.number) {
            let job = jobs.iter_mut().find(|job| job.number == number).expect("there");
            job.turn.begin();
            remember(&mut turns, job.whose.clone());
            got.push(job.whose.clone());
            begun.push_back(number);
        }
        assert!(begun.len() <= rules.packs);
        let Some(done) = begun.pop_front() else { return got };
        jobs.retain(|job| job.number != done);
    }
}

#[test]
fn nobody_starves_the_others() {
    for (flood, others) in [(address(66), [address(1), address(2)]), (user("ci"), [user("a"), user("b")])] {
        let mut whose = vec![flood.clone(); 20];
        whose.extend(others.clone());
        let got = order(jobs(&whose, 100), rules(1));
        assert_eq!(got.len(), 22);
        // However many wait before them: after one of the flood it is the others' turn.
        assert_eq!(got[..3], [flood, others[0].clone(), others[1].clone()]);
    }
}

#[test]
fn a_crowd_of_strangers_does_not_starve_a_user_nor_users_a_stranger() {
    // Each from an address that never had a turn before.
    let mut whose: Vec<Whose> = (1..=20).map(address).collect();
    whose.extend([user("alice"), user("alice")]);
    let got = order(jobs(&whose, 100), rules(1));
    assert_eq!(got[..5], [address(1), user("alice"), address(2), user("alice"), address(3)]);
    let mut whose: Vec<Whose> = (1..=20).map(|n| user(&n.to_string())).collect();
    whose.push(address(9));
    let got = order(jobs(&whose, 100), rules(1));
    assert_eq!(got[..2], [user("1"), address(9)]);
}

#[test]
fn clients_that_stay_do_not_have_the_last_places() {
    let held = |whose: &[Whose], rules: Rules| {
        let (mut jobs, mut turns) = (jobs(whose, 100), VecDeque::new());
        while let Some(number) = next(&jobs, rules, &turns).map(|job| job.number) {
            jobs[usize::try_from(number).expect("small")].turn.begin();
            remember(&mut turns, whose[usize::try_from(number).expect("small")].clone());
        }
        jobs.iter().filter(|job| job.turn.stage == Stage::Running).count()
    };
    let strangers: Vec<Whose> = (1..=30).map(address).collect();
    assert_eq!(held(&strangers, rules(16)), 12);
    assert_eq!(held(&vec![address(1); 30], rules(16)), 6);
    assert_eq!(held(&vec![user("ci"); 30], rules(16)), 12);
    assert_eq!(held(&vec![user("ci"); 30], Rules { both: false, ..rules(16) }), 16);
    // With few places: one of two, and the only one.
    assert_eq!((held(&strangers, rules(2)), held(&strangers, rules(1))), (1, 1));
}

#[test]
fn a_repository_has_so_many_packs_at_a_time() {
    let mut all = jobs(&[user("a"), user("b"), user("c")], 2);
    for job in &mut all {
        job.repository = (1, 1);
    }
    all[0].turn.begin();
    all[1].turn.begin();
    let alone = |total| Rules { both: false, ..rules(total) };
    let first = |all: &[Job], total| next(all, alone(total), &VecDeque::new()).map(|job| job.number);
    assert_eq!(first(&all, 16), None);
    assert_eq!(blocked(&all, &all[2], alone(16)), Some(Limit::PacksPerRepository));
    all[2].most = 3;
    assert_eq!(first(&all, 16), Some(2));
    (all[2].most, all[2].repository) = (2, (1, 99));
    assert_eq!(first(&all, 16), Some(2));
    assert_eq!(first(&all, 2), None);
    assert_eq!(blocked(&all, &all[2], alone(2)), Some(Limit::PacksTotal));
}

#[test]
fn whoever_has_most_packs_waiting_gives_way_and_each_kind_has_a_queue_of_its_own() {
    let way = |whose: &[Whose]| {
        let jobs = jobs(whose, 100);
        gives_way(&jobs, jobs.last().expect("some").number, 3)
    };
    let (a, b) = (user("a"), user("b"));
    assert_eq!(way(&[a.clone(), a.clone(), a.clone()]), None);
    assert_eq!(way(&[a.clone(), a.clone(), a.clone(), a.clone()]), Some(3));
    // The last one of the flood, not the newcomer.
    assert_eq!(way(&[a.clone(), a.clone(), a.clone(), b.clone()]), Some(2));
    // As many as the newcomer would have: the newcomer.
    assert_eq!(way(&[a.clone(), a.clone(), b.clone(), b.clone()]), Some(3));
    assert_eq!(way(&[address(1), address(1), address(1), a.clone()]), None);
    assert_eq!(way(&[a.clone(), a.clone(), a.clone(), a, address(1)]), None);
}

/// A job that holds memory, or asks for it where `stage` is `None`.
fn holder(number: u64, whose: Whose, memory: u64, stage: Option<Stage>) -> Job {
    let mut turn = Turn::asked(Work::Pack, memory);
    if let Some(stage) = stage {
        turn.begin();
        turn.stage = stage;
    }
    Job { number, whose, repository: (1, 1), most: 100, turn }
}

/// Makes what waits have waited long.
fn aged(mut jobs: Vec<Job>) -> Vec<Job> {
    for job in &mut jobs {
        if let Stage::Waiting(wait) = &mut job.turn.stage {
            wait.since = wait.since.checked_sub(PATIENCE * 2).expect("the clock runs");
        }
    }
    jobs
}

#[test]
fn a_pack_that_stalls_leaves_its_place_and_keeps_its_memory() {
    let memory = Rules { memory: 100, both: false, ..rules(1) };
    let mut jobs = vec![
        holder(1, user("a"), 60, Some(Stage::Running)),
        holder(2, user("b"), 30, None),
        holder(3, user("c"), 50, None),
    ];
    assert_eq!(next(&jobs, memory, &VecDeque::new()).map(|job| job.number), None);
    assert_eq!(blocked(&jobs, &jobs[1], memory), Some(Limit::PacksTotal));
    jobs[0].turn.stage = Stage::Stalled;
    assert_eq!(next(&jobs, memory, &VecDeque::new()).map(|job| job.number), Some(2));
    assert_eq!(blocked(&jobs, &jobs[2], memory), Some(Limit::MemoryTotal));
    // It needs no more than it holds: memory does not keep it from going on.
    jobs[0].turn.stage = Stage::Waiting(Wait { since: Instant::now(), told: None });
    jobs[1].turn.stage = Stage::Stalled;
    jobs[1].turn.held = 90;
    assert_eq!(blocked(&jobs, &jobs[0], memory), None);
}

#[test]
fn who_is_alone_may_have_more_memory_than_there_is() {
    let memory = Rules { memory: 100, ..rules(8) };
    let mut jobs = vec![holder(1, address(1), 1000, None)];
    assert_eq!(blocked(&jobs, &jobs[0], memory), None);
    jobs[0].turn.begin();
    jobs.push(holder(2, user("a"), 1, None));
    assert_eq!(blocked(&jobs, &jobs[1], memory), Some(Limit::MemoryTotal));
}

#[test]
fn strangers_leave_users_a_quarter_of_the_memory_and_one_another_half() {
    let memory = Rules { memory: 400, ..rules(8) };
    let jobs = vec![
        holder(1, address(1), 140, Some(Stage::Stalled)),
        holder(2, address(2), 140, Some(Stage::Stalled)),
        holder(3, address(3), 40, None),
        holder(4, user("a"), 120, None),
        holder(5, address(1), 20, None),
    ];
    let why = |at: usize| blocked(&jobs, &jobs[at], memory);
    assert_eq!((why(2), why(3), why(4)), (Some(Limit::MemoryTotal), None, Some(Limit::MemoryTotal)));
}

#[test]
fn each_client_has_a_share_of_the_memory_and_one_is_left_for_a_newcomer() {
    let memory = Rules { memory: 120, both: false, ..rules(99) };
    let user = |n: u64| user(&n.to_string());
    // What clients hold, who asks for how much, and whether he gets it.
    type Asks = (u64, u64);
    let table: &[(&[Asks], Asks, bool)] = &[
        // Alone: half of it, or one piece however large.
        (&[], (1, 119), true),
        (&[(1, 40)], (1, 20), true),
        (&[(1, 40)], (1, 21), false),
        (&[(1, 90)], (1, 1), false),
        // A newcomer has what is left.
        (&[(1, 40), (1, 20)], (2, 60), true),
        (&[(1, 60)], (2, 60), true),
        // Of two a third each, of three a quarter.
        (&[(1, 60), (2, 20)], (2, 20), true),
        (&[(1, 60), (2, 20)], (2, 21), false),
        (&[(1, 10), (2, 10), (3, 10)], (1, 20), true),
        (&[(1, 10), (2, 10), (3, 10)], (1, 21), false),
        // Who has nothing has no share to exceed.
        (&[(1, 10), (2, 10), (3, 10)], (4, 90), true),
        (&[(1, 10), (2, 10), (3, 10)], (4, 91), false),
    ];
    for (held, (who, need), begins) in table {
        let mut jobs: Vec<Job> = (0..)
            .zip(*held)
            .map(|(n, (who, held))| holder(n, user(*who), *held, Some(Stage::Stalled)))
            .collect();
        jobs.push(holder(99, user(*who), *need, None));
        let last = jobs.last().expect("some");
        assert_eq!(blocked(&jobs, last, memory).is_none(), *begins, "{held:?} {who} {need}");
    }
    // Those who wait count as those who hold, and the other kind does not.
    let mut jobs = vec![
        holder(1, user(1), 40, Some(Stage::Stalled)),
        holder(2, user(1), 20, None),
        holder(3, address(3), 0, None),
    ];
    assert_eq!(blocked(&jobs, &jobs[1], memory), None);
    jobs.push(holder(4, user(2), 5, None));
    assert_eq!(blocked(&jobs, &jobs[1], memory), Some(Limit::MemoryTotal));
    // What has begun goes on: it would wait for its own.
    jobs[1].turn.held = 19;
    assert_eq!(blocked(&jobs, &jobs[1], memory), None);
}

#[test]
fn nobody_is_ended_for_one_who_has_his_share() {
    let memory = Rules { memory: 400, ..rules(8) };
    let jobs = aged(vec![
        holder(1, address(1), 140, Some(Stage::Stalled)),
        holder(2, address(2), 10, Some(Stage::Stalled)),
        holder(3, address(1), 20, None),
    ]);
    assert_eq!(blocked(&jobs, &jobs[2], memory), Some(Limit::MemoryTotal));
    assert!(evicted(&jobs, memory).is_none());
}

#[test]
fn who_holds_most_for_longest_is_ended_when_the_memory_is_used_up() {
    let memory = Rules { memory: 100, ..rules(8) };
    let stalled = Some(Stage::Stalled);
    let jobs = |waiting: Job| {
        let mut jobs = vec![
            holder(1, user("slow"), 35, stalled),
            holder(2, address(2), 10, stalled),
            holder(3, address(3), 30, stalled),
            holder(4, address(4), 20, Some(Stage::Running)),
            waiting,
        ];
        for job in &mut jobs[..4] {
            job.turn.begun = Instant::now().checked_sub(Duration::from_secs(9));
        }
        jobs
    };
    let ended = |jobs: &[Job]| evicted(jobs, memory).map(|job| job.number);
    // Nobody as long as there is enough, nor at once.
    assert_eq!(ended(&aged(jobs(holder(5, user("a"), 5, None)))), None);
    assert_eq!(ended(&jobs(holder(5, user("a"), 10, None))), None);
    let mut all = aged(jobs(holder(5, user("a"), 10, None)));
    assert_eq!(ended(&all), Some(3));
    // One after the other, and a small pack that has been there for long before a large new one.
    all[2].turn.stage = Stage::Refused;
    assert_eq!(ended(&all), None);
    all[2].turn = all[1].turn;
    all[2].turn.held = 30;
    all[2].turn.begun = Some(Instant::now());
    assert_eq!(ended(&all), Some(2));
    // A user who waits because of users is not helped by the end of a stranger.
    let users = vec![
        holder(1, user("b"), 70, stalled),
        holder(2, address(2), 10, stalled),
        holder(3, user("a"), 10, None),
    ];
    assert_eq!(ended(&aged(users)), None);
}

#[test]
fn packs_and_pushes_have_places_of_their_own() {
    let mut jobs = vec![
        holder(1, user("a"), 0, Some(Stage::Running)),
        holder(2, user("b"), 0, None),
        holder(3, user("c"), 0, None),
    ];
    jobs[1].turn.work = Work::Push;
    jobs[2].turn.work = Work::Push;
    assert_eq!(blocked(&jobs, &jobs[1], rules(1)), None);
    jobs[1].turn.begin();
    assert_eq!(blocked(&jobs, &jobs[2], rules(1)), Some(Limit::PushesTotal));
    let many = Rules { pushes: 9, both: false, ..rules(1) };
    assert_eq!(blocked(&jobs, &jobs[2], many), None);
    jobs[2].most = 1;
    assert_eq!(blocked(&jobs, &jobs[2], many), Some(Limit::PushesPerRepository));
    // However many pushes wait, none of them gives way.
    assert_eq!(gives_way(&jobs, 3, 0), None);
}
