//! A batch of the code scan on the device.

use crate::batch::{Batch, EPSILON, LOOSE_SCALE};
use crate::device::Device;
use omen_gpu::buffers::DeviceBuffer;
use omen_gpu::params::{CodeView, ScanCodesParams};

impl Batch {
    pub fn upload(&self, device: &Device) -> LoadedBatch {
        let n_items = [self.items.len() as u32];
        LoadedBatch {
            buffers: [
                device.put(&self.codes),
                device.put(&self.factors),
                device.put(&self.err),
                device.put(&self.live),
                device.put(&self.planes),
                device.put(&self.code_consts),
                device.put(&self.consts),
                device.put(&self.items),
                device.put(&n_items),
                device.put(&self.group),
                device.put(&self.pair),
                device.put(&self.add),
                device.put(&self.distance),
                device.put(&self.thresholds),
                device.put(&self.pair_base),
            ],
            counts: device.put(&self.counts),
            survivors: device.put(&self.survivors),
        }
    }
}

pub struct LoadedBatch {
    buffers: [DeviceBuffer; 15],
    counts: DeviceBuffer,
    survivors: DeviceBuffer,
}

impl LoadedBatch {
    pub fn params(&self, batch: &Batch, upper: bool) -> ScanCodesParams {
        let [
            codes,
            factors,
            err,
            live,
            planes,
            code_consts,
            consts,
            items,
            n_items,
            group,
            pair,
            add,
            distance,
            thresholds,
            pair_base,
        ] = self.buffers.each_ref().map(DeviceBuffer::address);
        ScanCodesParams {
            tier: CodeView {
                codes,
                factors,
                err,
                live,
                n_slots: batch.n_slots as u32,
                code_pitch: batch.code_pitch as u32,
                metric: batch.metric as u32,
                reserved: 0,
            },
            planes,
            codes: code_consts,
            consts,
            items,
            n_items,
            group,
            pair,
            add,
            distance,
            thresholds,
            counts: self.counts.address(),
            survivors: self.survivors.address(),
            pair_base,
            cap: batch.cap as u32,
            upper: u32::from(upper),
            loose_scale: LOOSE_SCALE,
            epsilon: EPSILON,
        }
    }

    pub fn download(&self, device: &Device, to: &mut Batch) {
        to.counts = device.get(&self.counts);
        to.survivors = device.get(&self.survivors);
    }
}
