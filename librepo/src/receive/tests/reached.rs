//! What a push reaches: connectivity, and the facts that rules are about.

use super::*;

#[test]
fn connectivity_is_full() {
    let (repo, ids) = repository("sha1");
    let repository = open(repo.path());
    let root = id(&text(git(repo.path(), &["rev-parse", "main^{tree}"], b"").unwrap()));
    let none = Shallow::default();
    let tips = [ids[5]];
    let check = |objects: &[(ObjectKind, Vec<u8>)], old: ObjectId, new: ObjectId| {
        let mut pack = TestPack::new(SHA1);
        for (kind, data) in objects {
            pack.object(*kind, data);
        }
        let received =
            receive_with(&pack.finish(), SHA1, Some(&repository), &IndexOptions::default()).unwrap();
        about(Some(&received), &repository, &tips, &[RefChange { old, new }], &none)
    };
    let null = ObjectId::null(SHA1);
    let of = |data: &[u8], kind| hash_object(SHA1, kind, data);
    // A good one on top of main, with main's own tree.
    let good = commit(&root, &[ids[5]], 2_000_000);
    let facts = check(&[(ObjectKind::Commit, good.clone())], ids[5], of(&good, ObjectKind::Commit))
        .unwrap()
        .remove(0);
    assert_eq!((facts.refusal, facts.fast_forward, facts.merge), (None, Some(true), None));
    // The same beside main, and as a merge.
    let beside = commit(&root, &[ids[3]], 2_000_000);
    let facts = check(&[(ObjectKind::Commit, beside.clone())], ids[5], of(&beside, ObjectKind::Commit))
        .unwrap()
        .remove(0);
    assert_eq!((facts.refusal, facts.fast_forward), (None, Some(false)));
    let merge = commit(&root, &[ids[5], ids[2]], 2_000_000);
    let facts = check(&[(ObjectKind::Commit, merge.clone())], ids[5], of(&merge, ObjectKind::Commit))
        .unwrap()
        .remove(0);
    assert_eq!(facts.merge, Some(of(&merge, ObjectKind::Commit)));
    // Missing tree, blob below a new tree, parent, grandparent; the tip itself.
    let gone = of(b"gone", ObjectKind::Blob);
    let bad_tree = tree(&[("100644", b"f", gone)]);
    let bad_tree_id = of(&bad_tree, ObjectKind::Tree);
    let no_parent = commit(&root, &[gone], 2_000_000);
    let child = commit(&root, &[of(&no_parent, ObjectKind::Commit)], 2_000_001);
    for objects in [
        vec![(ObjectKind::Commit, commit(&gone, &[ids[5]], 2_000_000))],
        vec![
            (ObjectKind::Tree, bad_tree.clone()),
            (ObjectKind::Commit, commit(&bad_tree_id, &[ids[5]], 2_000_000)),
        ],
        vec![(ObjectKind::Commit, no_parent.clone())],
        vec![(ObjectKind::Commit, no_parent.clone()), (ObjectKind::Commit, child.clone())],
    ] {
        let tip = of(&objects.last().unwrap().1, ObjectKind::Commit);
        let facts = check(&objects, ids[5], tip).unwrap().remove(0);
        assert_eq!(facts.refusal, Some(Refusal::Missing(gone)));
    }
    let facts = about(None, &repository, &tips, &[RefChange { old: null, new: gone }], &none).unwrap();
    assert_eq!(facts[0].refusal, Some(Refusal::Missing(gone)));
    // A gap that the tip does not need is no reason.
    let facts = check(
        &[(ObjectKind::Tree, bad_tree), (ObjectKind::Commit, good.clone())],
        ids[5],
        of(&good, ObjectKind::Commit),
    )
    .unwrap();
    assert_eq!(facts[0].refusal, None);
    // A blob where a tree should be.
    let blob_id = of(b"b", ObjectKind::Blob);
    let confused = commit(&blob_id, &[], 5);
    let text = check(
        &[(ObjectKind::Blob, b"b".to_vec()), (ObjectKind::Commit, confused.clone())],
        null,
        of(&confused, ObjectKind::Commit),
    );
    assert!(text.unwrap_err().contains("named as something else"));
}

#[test]
fn what_exists_but_is_not_reached_is_not_trusted() {
    let (repo, ids) = repository("sha1");
    let put = |kind: &str, data: &[u8]| {
        let args = ["hash-object", "-t", kind, "-w", "--stdin", "--literally"];
        id(&text(git(repo.path(), &args, data).unwrap()))
    };
    let gone = hash_object(SHA1, ObjectKind::Blob, b"gone");
    let broken_tree = put("tree", &tree(&[("100644", b"f", gone)]));
    let broken = put("commit", &commit(&broken_tree, &[ids[5]], 2_000_000));
    let whole_blob = put("blob", b"there");
    let whole_tree = put("tree", &tree(&[("100644", b"f", whole_blob)]));
    let whole = put("commit", &commit(&whole_tree, &[ids[5]], 2_000_000));
    let repository = open(repo.path());
    let none = Shallow::default();
    let null = ObjectId::null(SHA1);
    let tips = [ids[5]];
    let verdict = |new: ObjectId, received: Option<&Received>| {
        about(received, &repository, &tips, &[RefChange { old: null, new }], &none).unwrap().remove(0).refusal
    };
    // Without any pack.
    assert_eq!(verdict(broken, None), Some(Refusal::Missing(gone)));
    assert_eq!(verdict(broken_tree, None), Some(Refusal::Missing(gone)));
    assert_eq!(verdict(whole, None), None);
    assert_eq!(verdict(ids[2], None), None);
    // As a parent, and as a tree, of something new.
    for (parent, root, want) in [
        (broken, whole_tree, Some(Refusal::Missing(gone))),
        (ids[5], broken_tree, Some(Refusal::Missing(gone))),
        (whole, whole_tree, None),
    ] {
        let mut pack = TestPack::new(SHA1);
        let (tip, _) = pack.object(ObjectKind::Commit, &commit(&root, &[parent], 2_000_005));
        let received =
            receive_with(&pack.finish(), SHA1, Some(&repository), &IndexOptions::default()).unwrap();
        assert_eq!(verdict(tip, Some(&received)), want);
    }
}

#[test]
fn a_shallow_client_may_push_what_the_repository_can_complete() {
    let (repo, ids) = repository("sha1");
    let repository = open(repo.path());
    let root = hash_object(SHA1, ObjectKind::Tree, b"");
    let gone = hash_object(SHA1, ObjectKind::Commit, b"gone");
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Tree, b"");
    let (cut, _) = pack.object(ObjectKind::Commit, &commit(&root, &[gone], 2_000_000));
    let (tip, _) = pack.object(ObjectKind::Commit, &commit(&root, &[cut], 2_000_001));
    let (fine, _) = pack.object(ObjectKind::Commit, &commit(&root, &[ids[4]], 2_000_001));
    let received = receive_with(&pack.finish(), SHA1, Some(&repository), &IndexOptions::default()).unwrap();
    let null = ObjectId::null(SHA1);
    let commands = [RefChange { old: null, new: tip }, RefChange { old: null, new: fine }];
    let shallow = Shallow { client: [cut, ids[4]].into_iter().collect(), ..Shallow::default() };
    let facts = about(Some(&received), &repository, &[ids[5]], &commands, &shallow).unwrap();
    assert_eq!(facts[0].refusal, Some(Refusal::Shallow));
    assert_eq!(facts[1].refusal, None);
    let facts = about(Some(&received), &repository, &[ids[5]], &commands, &Shallow::default()).unwrap();
    assert_eq!(facts[0].refusal, Some(Refusal::Missing(gone)));
}

#[test]
fn the_largest_blob_is_told_for_each_tip() {
    let (repo, ids) = repository("sha1");
    let repository = open(repo.path());
    let null = ObjectId::null(SHA1);
    let mut pack = TestPack::new(SHA1);
    let (large, _) = pack.object(ObjectKind::Blob, &vec![0; 2 << 20]);
    let (small, _) = pack.object(ObjectKind::Blob, b"small");
    let (a, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", large)]));
    let (b, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", small)]));
    let (a, _) = pack.object(ObjectKind::Commit, &commit(&a, &[ids[5]], 2_000_000));
    let (b, _) = pack.object(ObjectKind::Commit, &commit(&b, &[ids[5]], 2_000_000));
    let received = receive_with(&pack.finish(), SHA1, Some(&repository), &IndexOptions::default()).unwrap();
    let commands = [RefChange { old: null, new: a }, RefChange { old: null, new: b }];
    let facts = about(Some(&received), &repository, &[ids[5]], &commands, &Shallow::default()).unwrap();
    assert_eq!(facts[0].largest_blob, Some((large, 2 << 20)));
    assert_eq!(facts[1].largest_blob, Some((small, 5)));
    // A limit below what is told anyway.
    let mut pack = TestPack::new(SHA1);
    let (large, _) = pack.object(ObjectKind::Blob, &[0; 2000]);
    pack.object(ObjectKind::Blob, b"small");
    let (a, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", large)]));
    let (b, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", small)]));
    let (a, _) = pack.object(ObjectKind::Commit, &commit(&a, &[ids[5]], 2_000_000));
    let (b, _) = pack.object(ObjectKind::Commit, &commit(&b, &[ids[5]], 2_000_000));
    let options = IndexOptions { blob_limit: 1000, ..IndexOptions::default() };
    let received = receive_with(&pack.finish(), SHA1, Some(&repository), &options).unwrap();
    let commands = [RefChange { old: null, new: a }, RefChange { old: null, new: b }];
    let facts = about(Some(&received), &repository, &[ids[5]], &commands, &Shallow::default()).unwrap();
    assert_eq!(facts[0].largest_blob, Some((large, 2000)));
    assert_eq!(facts[1].largest_blob, Some((small, 5)));
}

#[test]
fn tags_are_peeled() {
    let (repo, ids) = repository("sha1");
    let repository = open(repo.path());
    let mut pack = TestPack::new(SHA1);
    let tag_of = |target: &ObjectId, kind: &str| {
        format!("object {target}\ntype {kind}\ntag t\ntagger C <c@x> 5 +0000\n\nm\n").into_bytes()
    };
    let (inner, _) = pack.object(ObjectKind::Tag, &tag_of(&ids[3], "commit"));
    let (outer, _) = pack.object(ObjectKind::Tag, &tag_of(&inner, "tag"));
    let received = receive_with(&pack.finish(), SHA1, Some(&repository), &IndexOptions::default()).unwrap();
    let commands = [RefChange { old: ObjectId::null(SHA1), new: outer }];
    let facts = about(Some(&received), &repository, &[ids[5]], &commands, &Shallow::default()).unwrap();
    assert_eq!(facts[0].refusal, None);
    assert_eq!((facts[0].kind, facts[0].peeled), (Some(ObjectKind::Tag), Some((ids[3], ObjectKind::Commit))));
}

#[test]
fn directories_are_not_nested_without_end() {
    let (repo, _) = repository("sha1");
    let nested = |levels: usize, at: ObjectId, backwards: bool| {
        let mut trees = Vec::new();
        let mut at = at;
        for _ in 0..levels {
            let data = tree(&[("40000", b"d", at)]);
            at = hash_object(SHA1, ObjectKind::Tree, &data);
            trees.push(data);
        }
        if backwards {
            trees.reverse();
        }
        let mut pack = TestPack::new(SHA1);
        for data in &trees {
            pack.object(ObjectKind::Tree, data);
        }
        pack.object(ObjectKind::Commit, &commit(&at, &[], 2_000_000));
        (pack.finish(), at)
    };
    let judge = |pack: &[u8], most: usize| {
        let repository = open(repo.path());
        let received = receive_with(pack, SHA1, Some(&repository), &IndexOptions::default()).unwrap();
        let mut quiet = |_: &Progress| Ok(());
        let files = Some((&received.pack, &received.idx));
        check_depth(&received.indexed, files, Some(repository.store()), most, &mut Ticker::new(&mut quiet))
            .map_err(|e| e.to_string())
    };
    let blob = hash_object(SHA1, ObjectKind::Blob, b"x");
    git(repo.path(), &["hash-object", "-w", "--stdin"], b"x").unwrap();
    let bottom = tree(&[("100644", b"f", blob)]);
    let bottom =
        id(&text(git(repo.path(), &["hash-object", "-t", "tree", "-w", "--stdin"], &bottom).unwrap()));
    for backwards in [false, true] {
        let (pack, _) = nested(100, bottom, backwards);
        judge(&pack, 101).unwrap();
        assert!(judge(&pack, 100).unwrap_err().contains("(limit tree depth)"), "{backwards}");
        assert!(judge(&nested(20_000, bottom, backwards).0, 2048).is_err());
    }
    // On top of what an earlier push brought.
    let (first, top) = nested(1500, bottom, false);
    git(repo.path(), &["index-pack", "--stdin"], &first).unwrap();
    assert!(judge(&nested(600, top, false).0, 2048).unwrap_err().contains("2049 levels"));
    judge(&nested(500, top, false).0, 2048).unwrap();
    // Few levels, whatever they are.
    judge(&nested(5, top, false).0, 2048).unwrap();
    assert!(judge(&nested(5, bottom, false).0, 4).is_err());
}
