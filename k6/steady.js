// Does nothing fail while things change? 20 requests a second for a minute, each sent at its time whatever the others do:
// 70 % place an order with a fresh key, 30 % search for a user's orders. A single failed request fails the run.
//
//   BASE_URL=http://localhost k6 run k6/steady.js
//   DURATION=5m …                   another time

import { buyOrSearch, skusInStock } from './lib.js';

export const options = {
  scenarios: {
    steady: {
      executor: 'constant-arrival-rate',
      rate: 20,
      timeUnit: '1s',
      duration: __ENV.DURATION || '60s',
      preAllocatedVUs: 20,
      maxVUs: 100,
    },
  },
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    dropped_iterations: ['count==0'],
  },
};

export function setup() {
  return { skus: skusInStock() };
}

export default function ({ skus }) {
  buyOrSearch(skus);
}
