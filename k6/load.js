// How does the pipeline bear load? A warm-up of up to 5 users over 30 s, then 20 users for 60 s from second 35 on:
// 70 % place an order with a fresh key, 30 % search for a user's orders.
//
//   BASE_URL=http://localhost k6 run k6/load.js
//   VUS=50 DURATION=5m …            another number of users, or another time, for the second part

import { buyOrSearch, skusInStock } from './lib.js';

export const options = {
  scenarios: {
    warm_up: {
      executor: 'ramping-vus',
      startVUs: 0,
      stages: [{ duration: '30s', target: 5 }],
      gracefulRampDown: '2s',
      gracefulStop: '2s',
    },
    load: {
      executor: 'constant-vus',
      startTime: '35s',
      vus: Number(__ENV.VUS || 20),
      duration: __ENV.DURATION || '60s',
    },
  },
  thresholds: {
    http_req_failed: ['rate<0.01'],
    http_req_duration: ['p(95)<800'],
    checks: ['rate>0.99'],
  },
};

export function setup() {
  return { skus: skusInStock() };
}

export default function ({ skus }) {
  buyOrSearch(skus);
}
