//! Messages come back as they were written; bytes of any kind are decoded to something or refused.

mod common;

use common::rng;
use omen_gpu::params::{Found, QueryBound};
use omen_gpu::{GpuError, NearSlot};
use omen_ivf::list_reader::AppendedTo;
use omen_service::message::{
    Answer, ChosenList, MessageError, OfQuery, Refusal, Request, SlotPlaces, StaleList, Status,
    TierKey, decode_answer, decode_request, encode_error, encode_status,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Aligned as payloads are.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Payload([u8; 4096]);

fn payload(rng: &mut ChaCha8Rng) -> Payload {
    let mut payload = Payload([0; 4096]);
    rng.fill(&mut payload.0[..]);
    payload
}

#[test]
fn requests_come_back() {
    let mut rng = rng("requests_come_back");
    for _ in 0..500 {
        let mut payload = payload(&mut rng);
        let n_queries = rng.random_range(0..6);
        let (dim, n_stale) = (rng.random_range(0..300), rng.random_range(0..150));
        let n_lists = rng.random_range(0..100);
        let lists: Vec<u32> = (0..n_lists).map(|_| rng.random()).collect();
        let vectors: Vec<f32> = (0..n_queries * dim).map(|_| rng.random()).collect();
        let bounds: Vec<QueryBound> = (0..n_queries)
            .map(|_| QueryBound {
                q_norm: rng.random(),
                q_err: rng.random(),
            })
            .collect();
        let stale: Vec<StaleList> = (0..n_stale)
            .map(|list| StaleList {
                list,
                layout_gen: rng.random(),
                delete_gen: rng.random(),
                append_delete_gen: rng.random(),
            })
            .collect();
        let request = Request {
            key: TierKey {
                tablespace: rng.random(),
                database: rng.random(),
                number: rng.random(),
                index: 0,
                seed: rng.random(),
                built_at: rng.random(),
            },
            probes: rng.random(),
            k: rng.random(),
            spread: rng.random(),
            rounding: rng.random(),
            n_queries: n_queries as u32,
            words: dim as u32,
            n_stale,
            n_lists,
        };
        let bytes = Request::bytes(n_queries, dim, lists.len(), n_stale as usize);
        let before = payload.0;
        let outcome = request.encode(&stale, &lists, &mut payload.0, |to, to_bounds| {
            to.copy_from_slice(&vectors);
            to_bounds.copy_from_slice(&bounds);
        });
        if bytes > 4096 {
            let (needed, there) = (bytes as u64, 4096);
            assert_eq!(outcome, Err(MessageError::Room { needed, there }));
            assert!(payload.0 == before);
            continue;
        }
        assert_eq!(outcome, Ok(bytes));
        let view = decode_request(&payload.0).unwrap();
        assert_eq!(view.head, request);
        assert_eq!((view.vectors, view.stale), (&vectors[..], &stale[..]));
        assert_eq!((view.bounds, view.lists), (&bounds[..], &lists[..]));
        assert_eq!(decode_request(&payload.0[..bytes]), Ok(view));
        assert!(decode_request(&payload.0[..bytes - 1]).is_err());
        let at = rng.random_range(1..8);
        assert!(decode_request(&payload.0[at..]).is_err());
    }
}

fn chosen(list: u32, rng: &mut ChaCha8Rng) -> ChosenList {
    ChosenList {
        list,
        layout_gen: rng.random(),
        delete_gen: rng.random(),
        n_live: rng.random(),
        n_slots: rng.random(),
        first_slot: rng.random(),
        appended: AppendedTo {
            block: rng.random(),
            seq: rng.random(),
            n_records: rng.random(),
            delete_gen: rng.random(),
            version: rng.random(),
        },
    }
}

#[test]
fn answers_come_back() {
    let mut rng = rng("answers_come_back");
    for _ in 0..500 {
        let mut payload = payload(&mut rng);
        let (n_queries, n_lists) = (rng.random_range(0..5), rng.random_range(1..120));
        let lists: Vec<ChosenList> = (0..n_lists).map(|list| chosen(list, &mut rng)).collect();
        let found: Vec<Vec<Found>> = (0..n_queries)
            .map(|_| {
                let n = rng.random_range(0..60);
                let mut found = |i| Found {
                    key: rng.random(),
                    ceiling: f32::INFINITY,
                    tid_block: i,
                    tid_offset: rng.random(),
                    slot: rng.random(),
                };
                (0..n).map(&mut found).collect()
            })
            .collect();
        let places: Vec<Option<Vec<u32>>> = (0..n_queries)
            .map(|_| {
                let n = rng.random_range(0..60);
                let all = rng.random_bool(0.3);
                (!all).then(|| (0..n).map(|_| rng.random_range(0..n_lists)).collect())
            })
            .collect();
        let queries: Vec<OfQuery> = found
            .iter()
            .zip(&places)
            .map(|(found, places)| OfQuery {
                n_found: found.len() as u32,
                frontier: rng.random(),
                overflow: 0,
                n_places: places.as_ref().map_or(OfQuery::ALL, |p| p.len() as u32),
            })
            .collect();
        let answer = Answer {
            batch_size: rng.random(),
            device_us: rng.random(),
            n_text: 77,
            ..Answer::default()
        };
        let items: Vec<&[Found]> = found.iter().map(Vec::as_slice).collect();
        let all_places: Vec<u32> = places.iter().flatten().flatten().copied().collect();
        let bytes = size_of::<Answer>()
            + size_of_val(&queries[..])
            + size_of::<Found>() * items.concat().len()
            + size_of_val(&lists[..])
            + size_of_val(&all_places[..]);
        let before = payload.0;
        let outcome = answer.encode(&queries, &items, &lists, &all_places, &mut payload.0);
        if bytes > 4096 {
            let (needed, there) = (bytes as u64, 4096);
            assert_eq!(outcome, Err(MessageError::Room { needed, there }));
            assert!(payload.0 == before);
            continue;
        }
        assert_eq!(outcome, Ok(bytes));
        let view = decode_answer(&payload.0[..bytes]).unwrap();
        assert_eq!((view.status, view.outcome()), (Status::Ok, Ok(())));
        assert_eq!(view.lists, &lists[..]);
        assert_eq!(view.head.device_us, answer.device_us);
        let each: Vec<_> = view.each().collect();
        assert_eq!(each.len(), n_queries);
        for (i, query) in each.into_iter().enumerate() {
            assert_eq!(query.found, &found[i][..]);
            assert!(query.named.is_empty() && !query.is_lost);
            assert_eq!(query.frontier, queries[i].frontier);
            assert_eq!(query.places, places[i].as_deref());
        }
        assert!(decode_answer(&payload.0[..bytes - 1]).is_err());
        if let Some(last) = all_places.len().checked_sub(1) {
            let mut spoilt = all_places.clone();
            spoilt[last] = n_lists + rng.random_range(0..3);
            let n = answer.encode(&queries, &items, &lists, &spoilt, &mut payload.0);
            assert_eq!(
                decode_answer(&payload.0[..n.unwrap()]),
                Err(MessageError::NoList(spoilt[last]))
            );
        }
    }
}

#[test]
fn named_slots_come_back() {
    let mut rng = rng("named_slots_come_back");
    for _ in 0..300 {
        let mut payload = payload(&mut rng);
        let named: Vec<Vec<NearSlot>> = (0..rng.random_range(1..5))
            .map(|_| {
                let n = rng.random_range(0..60);
                let slot = |slot| NearSlot {
                    slot,
                    bound: rng.random(),
                };
                (0..n).map(slot).collect()
            })
            .collect();
        let queries: Vec<OfQuery> = (0..)
            .zip(&named)
            .map(|(overflow, named)| OfQuery {
                n_found: named.len() as u32,
                frontier: 2.0,
                overflow,
                n_places: OfQuery::ALL,
            })
            .collect();
        let lists = [chosen(3, &mut rng)];
        let answer = Answer {
            names_slots: 1,
            ..Answer::default()
        };
        let slices: Vec<&[NearSlot]> = named.iter().map(Vec::as_slice).collect();
        let n = answer.encode(&queries, &slices, &lists, &[], &mut payload.0);
        let n = n.unwrap();
        let view = decode_answer(&payload.0[..n]).unwrap();
        assert!(view.names_slots() && view.lists == lists);
        for (i, query) in view.each().enumerate() {
            assert!(query.found.is_empty() && query.is_lost == (i > 0));
            assert_eq!(query.named, &named[i][..]);
        }
        assert!(decode_answer(&payload.0[..n - 1]).is_err());
    }
}

#[test]
fn slots_have_places_in_lists_that_were_searched() {
    let list = |list, first_slot, n_slots| ChosenList {
        list,
        layout_gen: 1,
        delete_gen: 0,
        n_live: n_slots,
        n_slots,
        first_slot,
        appended: AppendedTo::NOTHING,
    };
    // List 4 is absent; slots 35 to 39 are no list's; list 6 has the last slot there can be.
    let lists = [
        list(9, 20, 15),
        list(4, 0, 0),
        list(2, 40, 1),
        list(6, u32::MAX, 1),
    ];
    let slots = SlotPlaces::new(&lists);
    let places = [0, 19, 20, 34, 35, 39, 40, 41, u32::MAX - 1, u32::MAX].map(|s| slots.place_of(s));
    let expected = [
        None,
        None,
        Some((9, 0)),
        Some((9, 14)),
        None,
        None,
        Some((2, 0)),
        None,
        None,
        Some((6, 0)),
    ];
    assert_eq!(places, expected);
    assert_eq!(SlotPlaces::new(&[]).place_of(0), None);
}

#[test]
fn answers_take_no_more_than_is_foreseen() {
    let mut rng = rng("answers_take_no_more_than_is_foreseen");
    for _ in 0..300 {
        let (n_queries, k) = (rng.random_range(1..9), rng.random_range(0..9));
        let (n_chosen, n_lists) = (rng.random_range(1..9), rng.random_range(1..30usize));
        let lists: Vec<ChosenList> = (0..n_lists.min(n_queries * n_chosen) as u32)
            .map(|list| chosen(list, &mut rng))
            .collect();
        let n_places = if n_queries > 1 {
            n_chosen.min(n_lists)
        } else {
            0
        };
        let query = OfQuery {
            n_found: k,
            frontier: 1.0,
            overflow: 0,
            n_places: n_places as u32,
        };
        let found = vec![Found::default(); k as usize];
        let mut payload = payload(&mut rng);
        let n = Answer::default().encode(
            &vec![query; n_queries],
            &vec![&found[..]; n_queries],
            &lists,
            &vec![0; n_places * n_queries],
            &mut payload.0,
        );
        let most = Answer::bytes(n_queries, size_of_val(&found[..]), n_chosen, n_lists);
        assert!(n.unwrap() <= most, "{n_queries} {k} {n_chosen} {n_lists}");
    }
    // Without bound, but no overflow.
    assert!(Answer::bytes(usize::MAX, usize::MAX, usize::MAX, usize::MAX) > 1 << 60);
    assert!(Request::bytes(usize::MAX, usize::MAX, usize::MAX, usize::MAX) > 1 << 60);
}

#[test]
fn errors_come_back_cut_to_what_fits() {
    let mut rng = rng("errors_come_back_cut_to_what_fits");
    let text = "the device fell off: Gerät, 设备, ".repeat(10);
    let errors = [
        GpuError::NoDriver,
        GpuError::NoDevice,
        GpuError::OutOfMemory {
            needed: 1 << 40,
            available: 17,
        },
        GpuError::NotResident(4711),
        GpuError::Busy,
        GpuError::TimedOut,
        GpuError::Interrupted,
        GpuError::Lost(text.clone()),
        GpuError::Unsupported(String::new()),
        GpuError::Unsupported(text.clone()),
        GpuError::Other(text),
    ];
    for error in errors {
        let mut payload = payload(&mut rng);
        let n = encode_error(&error, &mut payload.0);
        let view = decode_answer(&payload.0[..n]).unwrap();
        assert_eq!(view.status, Status::of(&error));
        assert_eq!(view.outcome(), Err(Refusal::Gpu(error.clone())));
        for room in 0..200 {
            let n = encode_error(&error, &mut payload.0[..room]);
            assert!(n <= room);
            if room < size_of::<Answer>() {
                assert_eq!(n, 0);
                continue;
            }
            let view = decode_answer(&payload.0[..n]).unwrap();
            assert_eq!(view.status, Status::of(&error));
            let Err(Refusal::Gpu(cut)) = view.outcome() else {
                panic!("{:?}", view.outcome());
            };
            assert_eq!(Status::of(&cut), Status::of(&error));
            let (GpuError::Lost(cut) | GpuError::Unsupported(cut) | GpuError::Other(cut)) = cut
            else {
                continue;
            };
            assert!(error.to_string().ends_with(&cut) || error.to_string().contains(&cut));
        }
    }
    for (status, refusal) in [
        (Status::NotLoaded, Refusal::NotLoaded),
        (Status::Down, Refusal::Down),
    ] {
        let mut payload = payload(&mut rng);
        let n = encode_status(status, "", &mut payload.0);
        let view = decode_answer(&payload.0[..n]).unwrap();
        assert_eq!(view.outcome(), Err(refusal));
    }
}

#[test]
fn any_bytes_are_decoded_or_refused() {
    let mut rng = rng("any_bytes_are_decoded_or_refused");
    let (mut n_requests, mut n_answers) = (0, 0);
    for _ in 0..20_000 {
        let mut payload = payload(&mut rng);
        // Small numbers at the places of lengths and states, or most would be refused.
        for at in (0..80).step_by(4) {
            if rng.random_bool(0.6) {
                let small: u32 = rng.random_range(0..40);
                payload.0[at..at + 4].copy_from_slice(&small.to_le_bytes());
            }
        }
        let from = [0, 0, 0, 4, 1][rng.random_range(0..5)];
        let to = rng.random_range(from..=4096);
        let bytes = &payload.0[from..to];
        n_requests += u32::from(decode_request(bytes).is_ok());
        if let Ok(view) = decode_answer(bytes) {
            n_answers += 1;
            let _ = view.outcome();
            let _ = view.each().count();
        }
    }
    assert!(n_requests > 100 && n_answers > 100);
    assert!(decode_request(&[]).is_err() && decode_answer(&[]).is_err());
    assert_eq!(
        decode_answer(&Payload([0; 4096]).0),
        Err(MessageError::Status(0))
    );
}
