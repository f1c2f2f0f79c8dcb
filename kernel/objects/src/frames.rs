//! Frames that an object owns and pays for.

use logic::Oom;
use logic::addr::{Frame, PAGE_SIZE};
use sync::{Counted, Pool, SharedPage, Site};

use crate::{Account, Charge};

/// 2^order frames, freed and paid back when dropped.
pub struct OwnedFrames {
    pool: &'static Pool,
    /// The first page, found once: message pages are used in every call.
    page: &'static SharedPage,
    frame: Frame,
    order: u8,
    _charge: Charge,
}

impl OwnedFrames {
    /// Zeroed frames charged to `account`.
    pub fn new(
        pool: &'static Pool,
        account: &Counted<Account>,
        order: u8,
        site: Site,
    ) -> Result<OwnedFrames, Oom> {
        let frames = OwnedFrames::unscrubbed(pool, account, order, site)?;
        for index in 0..1 << order {
            frames.page_at(index).clear();
        }
        Ok(frames)
    }

    /// Frames charged to `account` with whatever they held: for what no program ever sees.
    pub fn unscrubbed(
        pool: &'static Pool,
        account: &Counted<Account>,
        order: u8,
        site: Site,
    ) -> Result<OwnedFrames, Oom> {
        let charge = Account::charge(account, PAGE_SIZE << order)?;
        let frame = pool.alloc(order, site)?;
        Ok(OwnedFrames { pool, page: pool.page(frame), frame, order, _charge: charge })
    }

    /// The first frame.
    #[inline(always)]
    pub fn frame(&self) -> Frame {
        self.frame
    }

    /// The first page.
    #[inline(always)]
    pub fn page(&self) -> &'static SharedPage {
        self.page
    }

    /// The page number `index` (0 if there are not so many).
    #[inline]
    pub fn page_at(&self, index: u64) -> &'static SharedPage {
        let index = if index < 1 << self.order { index } else { 0 };
        self.pool.page(self.frame.plus(index))
    }
}

impl Drop for OwnedFrames {
    fn drop(&mut self) {
        self.pool.free(self.frame, self.order);
    }
}
