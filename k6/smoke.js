// Does the pipeline work? One order from the REST call to the search, once:
// placed, replayed under its key, read, found in search within 3 s; and an unknown order is a clean 404.
//
//   BASE_URL=http://localhost k6 run k6/smoke.js

import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';
import { freshKey, getOrder, placeOrder, searchByUser, skusInStock } from './lib.js';

const SEARCHABLE_WITHIN_MS = 3000;

// Counted at the very end: an exception half-way fails the test, though no check has failed.
const finished = new Counter('finished');

export const options = {
  vus: 1,
  iterations: 1,
  duration: '20s', // at most
  thresholds: {
    checks: ['rate==1'],
    finished: ['count==1'],
    http_req_failed: ['rate==0'],
  },
};

export function setup() {
  return { skuId: skusInStock()[0] };
}

export default function ({ skuId }) {
  const userId = `smoke-${freshKey()}`;
  const key = freshKey();

  const placed = placeOrder(skuId, userId, key);
  const replayed = placeOrder(skuId, userId, key);
  check(replayed, {
    'replay: the same order': (r) => r.orderId !== null && r.orderId === placed.orderId,
    'replay: says so': (r) => r.response.headers['Idempotency-Replayed'] === 'true',
  });

  check(getOrder(placed.orderId, 200), {
    'read: status 200': (r) => r.status === 200,
    'read: the same order': (r) => r.status === 200 && String(r.json('orderId')) === placed.orderId,
  });

  check(searchUntilFound(userId, placed.orderId), {
    'search: finds the order within 3 s': (found) => found,
  });

  // The greatest id there can be: no pipeline will get that far.
  check(getOrder('9223372036854775807', 404), {
    'unknown order: status 404': (r) => r.status === 404,
    'unknown order: a problem document': (r) => (r.headers['Content-Type'] || '').startsWith('application/problem+json'),
  });

  finished.add(1);
}

function searchUntilFound(userId, orderId) {
  const deadline = Date.now() + SEARCHABLE_WITHIN_MS;
  while (Date.now() < deadline) {
    if (searchByUser(userId).some((order) => order.orderId === orderId)) {
      return true;
    }
    sleep(0.1);
  }
  return false;
}
