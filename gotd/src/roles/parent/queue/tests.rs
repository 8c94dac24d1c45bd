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

fn address(last: u8) -> Party {
    Party::Address(std::net::Ipv4Addr::new(192, 0, 2, last).to_ipv6_mapped().octets())
}

fn user(name: &str) -> Party {
    Party::User(format!("user:{name}"))
}

/// Jobs that wait, of each in this order, each for a repository of its own.
fn contenders(party: &[Party], most: usize) -> Vec<Contender> {
    let start = Instant::now();
    let contender = |(n, party): (u64, &Party)| {
        let wait = Wait { since: start + Duration::from_millis(n), told: None };
        let turn = Turn { stage: Stage::Waiting(wait), ..Turn::asked(Work::Pack, 0) };
        Contender { number: n, party: party.clone(), repository: (1, n), most, turn }
    };
    (0..).zip(party).map(contender).collect()
}

/// Lets packs run, the one that began first being done first, and returns who got them in which
/// order.
fn order(mut contenders: Vec<Contender>, rules: Rules) -> Vec<Party> {
    let (mut got, mut turns, mut begun) = (Vec::new(), VecDeque::new(), VecDeque::new());
    loop {
        while let Some(number) = next(&contenders, rules, &turns).map(|contender| contender.number) {
            let contender =
                contenders.iter_mut().find(|contender| contender.number == number).expect("there");
            contender.turn.begin();
            remember(&mut turns, contender.party.clone());
            got.push(contender.party.clone());
            begun.push_back(number);
        }
        assert!(begun.len() <= rules.packs);
        let Some(done) = begun.pop_front() else { return got };
        contenders.retain(|contender| contender.number != done);
    }
}

#[test]
fn nobody_starves_the_others() {
    for (flood, others) in [(address(66), [address(1), address(2)]), (user("ci"), [user("a"), user("b")])] {
        let mut party = vec![flood.clone(); 20];
        party.extend(others.clone());
        let got = order(contenders(&party, 100), rules(1));
        assert_eq!(got.len(), 22);
        // However many wait before them: after one of the flood it is the others' turn.
        assert_eq!(got[..3], [flood, others[0].clone(), others[1].clone()]);
    }
}

#[test]
fn a_crowd_of_strangers_does_not_starve_a_user_nor_users_a_stranger() {
    // Each from an address that never had a turn before.
    let mut party: Vec<Party> = (1..=20).map(address).collect();
    party.extend([user("alice"), user("alice")]);
    let got = order(contenders(&party, 100), rules(1));
    assert_eq!(got[..5], [address(1), user("alice"), address(2), user("alice"), address(3)]);
    let mut party: Vec<Party> = (1..=20).map(|n| user(&n.to_string())).collect();
    party.push(address(9));
    let got = order(contenders(&party, 100), rules(1));
    assert_eq!(got[..2], [user("1"), address(9)]);
}

#[test]
fn clients_that_stay_do_not_have_the_last_places() {
    let held = |party: &[Party], rules: Rules| {
        let (mut contenders, mut turns) = (contenders(party, 100), VecDeque::new());
        while let Some(number) = next(&contenders, rules, &turns).map(|contender| contender.number) {
            contenders[usize::try_from(number).expect("small")].turn.begin();
            remember(&mut turns, party[usize::try_from(number).expect("small")].clone());
        }
        contenders.iter().filter(|contender| contender.turn.stage == Stage::Running).count()
    };
    let strangers: Vec<Party> = (1..=30).map(address).collect();
    assert_eq!(held(&strangers, rules(16)), 12);
    assert_eq!(held(&vec![address(1); 30], rules(16)), 6);
    assert_eq!(held(&vec![user("ci"); 30], rules(16)), 12);
    assert_eq!(held(&vec![user("ci"); 30], Rules { both: false, ..rules(16) }), 16);
    // With few places: one of two, and the only one.
    assert_eq!((held(&strangers, rules(2)), held(&strangers, rules(1))), (1, 1));
}

#[test]
fn a_repository_has_so_many_packs_at_a_time() {
    let mut all = contenders(&[user("a"), user("b"), user("c")], 2);
    for contender in &mut all {
        contender.repository = (1, 1);
    }
    all[0].turn.begin();
    all[1].turn.begin();
    let alone = |total| Rules { both: false, ..rules(total) };
    let first = |all: &[Contender], total| {
        next(all, alone(total), &VecDeque::new()).map(|contender| contender.number)
    };
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
    let way = |party: &[Party]| {
        let contenders = contenders(party, 100);
        gives_way(&contenders, contenders.last().expect("some").number, 3)
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

/// A contender that holds memory, or asks for it where `stage` is `None`.
fn holder(number: u64, party: Party, memory: u64, stage: Option<Stage>) -> Contender {
    let mut turn = Turn::asked(Work::Pack, memory);
    if let Some(stage) = stage {
        turn.begin();
        turn.stage = stage;
        turn.idle = (stage == Stage::Stalled).then(|| before(9));
    }
    Contender { number, party, repository: (1, 1), most: 100, turn }
}

fn before(seconds: u64) -> Instant {
    Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the clock runs")
}

/// Makes what waits have waited long.
fn aged(mut contenders: Vec<Contender>) -> Vec<Contender> {
    for contender in &mut contenders {
        if let Stage::Waiting(wait) = &mut contender.turn.stage {
            wait.since = wait.since.checked_sub(PATIENCE * 2).expect("the clock runs");
        }
    }
    contenders
}

#[test]
fn a_pack_that_stalls_leaves_its_place_and_keeps_its_memory() {
    let memory = Rules { memory: 100, both: false, ..rules(1) };
    let mut contenders = vec![
        holder(1, user("a"), 60, Some(Stage::Running)),
        holder(2, user("b"), 30, None),
        holder(3, user("c"), 50, None),
    ];
    assert_eq!(next(&contenders, memory, &VecDeque::new()).map(|contender| contender.number), None);
    assert_eq!(blocked(&contenders, &contenders[1], memory), Some(Limit::PacksTotal));
    contenders[0].turn.stage = Stage::Stalled;
    assert_eq!(next(&contenders, memory, &VecDeque::new()).map(|contender| contender.number), Some(2));
    assert_eq!(blocked(&contenders, &contenders[2], memory), Some(Limit::MemoryTotal));
    // It needs no more than it holds: memory does not keep it from going on.
    contenders[0].turn.stage = Stage::Waiting(Wait { since: Instant::now(), told: None });
    contenders[1].turn.stage = Stage::Stalled;
    contenders[1].turn.held = 90;
    assert_eq!(blocked(&contenders, &contenders[0], memory), None);
}

#[test]
fn who_is_alone_may_have_more_memory_than_there_is() {
    let memory = Rules { memory: 100, ..rules(8) };
    let mut contenders = vec![holder(1, address(1), 1000, None)];
    assert_eq!(blocked(&contenders, &contenders[0], memory), None);
    contenders[0].turn.begin();
    contenders.push(holder(2, user("a"), 1, None));
    assert_eq!(blocked(&contenders, &contenders[1], memory), Some(Limit::MemoryTotal));
}

#[test]
fn strangers_leave_users_a_quarter_of_the_memory_and_one_another_half() {
    let memory = Rules { memory: 400, ..rules(8) };
    let contenders = vec![
        holder(1, address(1), 140, Some(Stage::Stalled)),
        holder(2, address(2), 140, Some(Stage::Stalled)),
        holder(3, address(3), 40, None),
        holder(4, user("a"), 120, None),
        holder(5, address(1), 20, None),
    ];
    let why = |at: usize| blocked(&contenders, &contenders[at], memory);
    assert_eq!((why(2), why(3), why(4)), (Some(Limit::MemoryTotal), None, Some(Limit::MemoryTotal)));
}

#[test]
fn each_client_has_a_share_of_the_memory_and_one_is_left_for_a_newcomer() {
    let memory = Rules { memory: 120, both: false, ..rules(99) };
    let user = |n: u64| user(&n.to_string());
    // What clients hold, who asks for how much, and whether he gets it.
    type Asks = (u64, u64);
    let table: &[(&[Asks], Asks, bool)] = &[
        // Alone: one piece however large, half of it, or more as long as as much is left.
        (&[], (1, 119), true),
        (&[(1, 40)], (1, 20), true),
        (&[(1, 40)], (1, 40), true),
        (&[(1, 40)], (1, 41), false),
        (&[(1, 90)], (1, 15), true),
        (&[(1, 90)], (1, 16), false),
        // A newcomer has what is left.
        (&[(1, 40), (1, 20)], (2, 60), true),
        (&[(1, 60)], (2, 60), true),
        // Of two a third each, of three a quarter.
        (&[(1, 60), (2, 20)], (2, 20), true),
        (&[(1, 60), (2, 20)], (2, 21), false),
        (&[(1, 30), (2, 30), (3, 30)], (1, 15), true),
        (&[(1, 30), (2, 30), (3, 30)], (1, 16), false),
        // Who has nothing has no share to exceed.
        (&[(1, 10), (2, 10), (3, 10)], (4, 90), true),
        (&[(1, 10), (2, 10), (3, 10)], (4, 91), false),
    ];
    for (held, (who, need), begins) in table {
        let mut contenders: Vec<Contender> = (0..)
            .zip(*held)
            .map(|(n, (who, held))| holder(n, user(*who), *held, Some(Stage::Stalled)))
            .collect();
        contenders.push(holder(99, user(*who), *need, None));
        let last = contenders.last().expect("some");
        assert_eq!(blocked(&contenders, last, memory).is_none(), *begins, "{held:?} {who} {need}");
    }
    // Those who wait count as those who hold, and the other kind does not.
    let mut contenders = vec![
        holder(1, user(1), 40, Some(Stage::Stalled)),
        holder(2, user(1), 20, None),
        holder(3, address(3), 0, None),
    ];
    assert_eq!(blocked(&contenders, &contenders[1], memory), None);
    // The share holds as soon as somebody waits.
    contenders.push(holder(4, user(2), 5, None));
    assert_eq!(blocked(&contenders, &contenders[1], memory), Some(Limit::MemoryTotal));
    // What has begun goes on: it would wait for its own.
    contenders[1].turn.held = 19;
    assert_eq!(blocked(&contenders, &contenders[1], memory), None);
}

#[test]
fn nobody_is_ended_for_one_who_has_his_share() {
    let memory = Rules { memory: 400, ..rules(8) };
    let contenders = aged(vec![
        holder(1, address(1), 140, Some(Stage::Stalled)),
        holder(2, address(2), 10, Some(Stage::Stalled)),
        holder(3, address(1), 20, None),
    ]);
    assert_eq!(blocked(&contenders, &contenders[2], memory), Some(Limit::MemoryTotal));
    assert!(evicted(&contenders, memory).is_none());
}

#[test]
fn who_holds_most_for_longest_is_ended_when_the_memory_is_used_up() {
    let memory = Rules { memory: 100, ..rules(8) };
    let stalled = Some(Stage::Stalled);
    let contenders = |waiting: Contender| {
        vec![
            holder(1, user("slow"), 25, stalled),
            holder(2, address(2), 10, stalled),
            holder(3, address(3), 40, stalled),
            holder(4, address(4), 20, Some(Stage::Running)),
            waiting,
        ]
    };
    let ended = |contenders: &[Contender]| evicted(contenders, memory).map(|contender| contender.number);
    // Nobody as long as there is enough, nor at once.
    assert_eq!(ended(&aged(contenders(holder(5, user("a"), 5, None)))), None);
    assert_eq!(ended(&contenders(holder(5, user("a"), 10, None))), None);
    let mut all = aged(contenders(holder(5, user("a"), 10, None)));
    assert_eq!(ended(&all), Some(3));
    // A small pack that is not taken for long before a large one that was taken a while ago; who
    // has just taken some stays.
    all[2].turn.idle = Some(before(4));
    all[1].turn.idle = Some(before(60));
    assert_eq!(ended(&all), Some(2));
    all[1].turn.idle = Some(Instant::now());
    assert_eq!(ended(&all), Some(3));
    all[2].turn.idle = Some(Instant::now());
    assert_eq!(ended(&all), None);
    // One after the other.
    all[1].turn.idle = Some(before(60));
    all[2].turn.stage = Stage::Refused;
    assert_eq!(ended(&all), None);
}

/// A user was never ended: one who stalled beyond his share kept all of the memory for hours.
#[test]
fn a_user_beyond_his_share_who_stalls_is_ended_for_who_waits() {
    let memory = Rules { memory: 100, both: false, ..rules(8) };
    let ended = |holding: u64, idle: Instant, stage: Stage, waiting: Contender| {
        let mut contenders = aged(vec![holder(1, user("b"), holding, Some(stage)), waiting]);
        contenders[0].turn.idle = Some(idle);
        evicted(&contenders, memory).map(|contender| contender.number)
    };
    let other = || holder(2, user("a"), 80, None);
    // Of two who are there a third is the share.
    assert_eq!(ended(34, before(9), Stage::Stalled, other()), Some(1));
    assert_eq!(ended(33, before(9), Stage::Stalled, other()), None);
    // Who makes progress is not ended, nor anybody for himself, nor where it does not help.
    assert_eq!(ended(90, before(1), Stage::Stalled, other()), None);
    assert_eq!(ended(90, before(9), Stage::Running, other()), None);
    assert_eq!(ended(90, before(9), Stage::Stalled, holder(2, user("b"), 80, None)), None);
    let contenders = aged(vec![
        holder(1, user("b"), 40, Some(Stage::Stalled)),
        holder(3, user("c"), 50, Some(Stage::Running)),
        other(),
    ]);
    assert!(evicted(&contenders, memory).is_none());
}

/// What counted was the total: the stalled pack of another address was ended although the waiter's
/// own kept it waiting.
#[test]
fn nobody_is_ended_unless_that_lets_the_waiter_go_on() {
    let memory = Rules { memory: 100, ..rules(8) };
    let stalled = Some(Stage::Stalled);
    let ended =
        |contenders: Vec<Contender>| evicted(&aged(contenders), memory).map(|contender| contender.number);
    // Half of 75 for each address: 20 and 20 more are too many, whatever the other one holds.
    let own = vec![
        holder(1, address(1), 50, stalled),
        holder(2, address(2), 20, Some(Stage::Running)),
        holder(3, address(2), 20, None),
    ];
    assert_eq!(ended(own), None);
    // Who takes what is copied is not ended, only who has ceased to.
    let mut copies = vec![holder(1, address(1), 40, stalled), holder(2, address(2), 40, None)];
    copies[0].turn.copies(40);
    assert_eq!(ended(copies.clone()), None);
    copies[0].turn.stall(40);
    copies[0].turn.idle = Some(before(9));
    assert_eq!(ended(copies), Some(1));
    // Two have to go, and who is not needed for it stays.
    let two = || {
        vec![
            holder(1, address(1), 30, stalled),
            holder(2, address(2), 5, stalled),
            holder(3, address(3), 25, stalled),
            holder(4, address(4), 60, None),
        ]
    };
    assert_eq!(ended(two()), Some(1));
    assert_eq!(ended(two()[1..].to_vec()), Some(3));
    let mut one = two();
    one[3].turn.need = 40;
    one[1].turn.idle = Some(before(500));
    assert_eq!(ended(one), Some(1));
    // Without the one that computes they would not suffice.
    let mut computes = two();
    computes[2].turn.stage = Stage::Running;
    assert_eq!(ended(computes), None);
    // The packs of one address count together.
    let mut many: Vec<Contender> = (1..=4).map(|n| holder(n, address(1), 10, stalled)).collect();
    many.extend([holder(5, address(2), 20, stalled), holder(6, address(3), 20, None)]);
    assert_eq!(ended(many), Some(4));
}

/// A share holds nobody up who is alone, and small packs of one client do not keep its large one
/// waiting for ever.
#[test]
fn who_is_alone_is_served_beyond_his_share_and_his_oldest_wait_first() {
    let memory = Rules { memory: 140 << 20, both: false, ..rules(8) };
    let first = |contenders: &[Contender]| {
        next(contenders, memory, &VecDeque::new()).map(|contender| contender.number)
    };
    let mib = |number, party, n: u64, stage| holder(number, party, n << 20, stage);
    let mut contenders = vec![
        mib(1, user("alice"), 53, Some(Stage::Stalled)),
        mib(2, user("alice"), 72, None),
        mib(3, user("alice"), 8, None),
    ];
    // A newcomer might need as much: the second waits, and nothing younger of hers begins before
    // it.
    assert_eq!(first(&contenders), None);
    assert_eq!(blocked(&contenders, &contenders[2], memory), Some(Limit::MemoryTotal));
    contenders[1].turn.stage = Stage::Waiting(Wait { since: before(6), told: None });
    assert_eq!(first(&contenders), Some(2));
    // Not while somebody else waits for memory.
    contenders.push(mib(4, user("bob"), 120, None));
    assert_eq!(first(&contenders), None);
    contenders.pop();
    // The least that a newcomer needs is left in any case.
    contenders[1].turn.need = 80 << 20;
    assert_eq!(first(&contenders), None);
    // Once there is nothing of hers it begins, however large.
    contenders[1].turn.need = 140 << 20;
    assert_eq!(first(&contenders), None);
    assert_eq!(first(&contenders[1..]), Some(2));
    // What others hold up holds up nothing younger.
    let others = vec![
        mib(1, user("bob"), 100, Some(Stage::Running)),
        mib(2, user("alice"), 72, None),
        mib(3, user("alice"), 8, None),
    ];
    assert_eq!(first(&others), Some(3));
}

#[test]
fn packs_and_pushes_have_places_of_their_own() {
    let mut contenders = vec![
        holder(1, user("a"), 0, Some(Stage::Running)),
        holder(2, user("b"), 0, None),
        holder(3, user("c"), 0, None),
    ];
    contenders[1].turn.work = Work::Push;
    contenders[2].turn.work = Work::Push;
    assert_eq!(blocked(&contenders, &contenders[1], rules(1)), None);
    contenders[1].turn.begin();
    assert_eq!(blocked(&contenders, &contenders[2], rules(1)), Some(Limit::PushesTotal));
    let many = Rules { pushes: 9, both: false, ..rules(1) };
    assert_eq!(blocked(&contenders, &contenders[2], many), None);
    contenders[2].most = 1;
    assert_eq!(blocked(&contenders, &contenders[2], many), Some(Limit::PushesPerRepository));
    // However many pushes wait, none of them gives way.
    assert_eq!(gives_way(&contenders, 3, 0), None);
}
