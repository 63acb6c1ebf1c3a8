//! Messages come back as they were written; bytes of any kind are decoded to something or refused.

mod common;

use common::rng;
use omen_gpu::GpuError;
use omen_gpu::params::{Found, QueryBound};
use omen_service::message::{
    Answer, ChosenList, MessageError, Refusal, Request, StaleList, Status, TierKey, decode_answer,
    decode_request, encode_error, encode_status,
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
        let (dim, n_stale) = (rng.random_range(0..700), rng.random_range(0..150));
        let vector: Vec<f32> = (0..dim).map(|_| rng.random()).collect();
        let stale: Vec<StaleList> = (0..n_stale)
            .map(|list| StaleList {
                list,
                layout_gen: rng.random(),
                delete_gen: rng.random(),
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
            bound: QueryBound {
                q_norm: rng.random(),
                q_err: rng.random(),
            },
            dim: dim as u32,
            n_stale,
        };
        let bytes = Request::bytes(dim, n_stale as usize);
        let before = payload.0;
        let outcome = request.encode(&vector, &stale, &mut payload.0);
        if bytes > 4096 {
            let (needed, there) = (bytes as u64, 4096);
            assert_eq!(outcome, Err(MessageError::Room { needed, there }));
            assert!(payload.0 == before);
            continue;
        }
        assert_eq!(outcome, Ok(bytes));
        let view = decode_request(&payload.0).unwrap();
        assert_eq!(view.head, request);
        assert_eq!((view.vector, view.stale), (&vector[..], &stale[..]));
        assert_eq!(decode_request(&payload.0[..bytes]), Ok(view));
        assert!(decode_request(&payload.0[..bytes - 1]).is_err());
        let at = rng.random_range(1..8);
        assert!(decode_request(&payload.0[at..]).is_err());
    }
}

#[test]
fn answers_come_back() {
    let mut rng = rng("answers_come_back");
    for _ in 0..500 {
        let mut payload = payload(&mut rng);
        let (n_found, n_lists) = (rng.random_range(0..200), rng.random_range(0..200));
        let found: Vec<Found> = (0..n_found)
            .map(|i| Found {
                key: rng.random(),
                ceiling: f32::INFINITY,
                tid_block: i,
                tid_offset: rng.random(),
            })
            .collect();
        let lists: Vec<ChosenList> = (0..n_lists)
            .map(|list| ChosenList {
                list,
                layout_gen: rng.random(),
                delete_gen: rng.random(),
                n_slots: rng.random(),
            })
            .collect();
        let answer = Answer {
            frontier: rng.random(),
            batch_size: rng.random(),
            device_us: rng.random(),
            n_text: 77,
            ..Answer::default()
        };
        let bytes = Answer::bytes(found.len(), lists.len());
        let before = payload.0;
        let outcome = answer.encode(&found, &lists, &mut payload.0);
        if bytes > 4096 {
            let (needed, there) = (bytes as u64, 4096);
            assert_eq!(outcome, Err(MessageError::Room { needed, there }));
            assert!(payload.0 == before);
            continue;
        }
        assert_eq!(outcome, Ok(bytes));
        let view = decode_answer(&payload.0[..bytes]).unwrap();
        assert_eq!((view.status, view.outcome()), (Status::Ok, Ok(())));
        assert_eq!((view.found, view.lists), (&found[..], &lists[..]));
        assert_eq!(view.head.frontier, answer.frontier);
        assert_eq!(view.head.device_us, answer.device_us);
        assert!(decode_answer(&payload.0[..bytes - 1]).is_err());
    }
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
        }
    }
    assert!(n_requests > 100 && n_answers > 100);
    assert!(decode_request(&[]).is_err() && decode_answer(&[]).is_err());
    assert_eq!(
        decode_answer(&Payload([0; 4096]).0),
        Err(MessageError::Status(0))
    );
}
