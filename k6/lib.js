// What the scripts share: the API's calls, each with its checks, and the catalogue they buy from.
//
// BASE_URL is the API's address as the script's machine sees it: http://localhost through the ingress,
// http://<pipeline>-api.<namespace>.svc inside the cluster.

import http from 'k6/http';
import { check, fail } from 'k6';

const BASE_URL = (__ENV.BASE_URL || 'http://localhost').replace(/\/+$/, '');

const ORDERS_SHARE = 0.7;
const USERS = 200;

// Requests are named by their route, so that one order's id is not one more time series.
const named = (name, headers) => ({ tags: { name }, headers: headers || {} });

const json = (response) => {
  try {
    return response.json();
  } catch (_) {
    return null;
  }
};

const isOrder = (body) => body !== null && body.orderId !== undefined && body.orderId !== null;

/** A key that no order has used. */
export const freshKey = () => crypto.randomUUID();

/** The SKUs that can be bought; stops the test where there are none, since nothing could be ordered. */
export function skusInStock() {
  const response = http.get(`${BASE_URL}/products?limit=100`, named('GET /products'));
  if (response.status !== 200) {
    fail(`reading the catalogue from ${BASE_URL}/products: expected 200, got ${response.status} ${response.error || response.body}`);
  }
  const skus = response
    .json()
    .flatMap((product) => product.skus)
    .filter((sku) => sku.stock > 0)
    .map((sku) => sku.skuId);
  if (skus.length === 0) {
    fail(`no SKU at ${BASE_URL}/products is in stock: seed the pipeline's catalogue (spec.catalogue.seed) or add products`);
  }
  return skus;
}

/** Places one order; answers the response and, where it is an order, its id as a string. */
export function placeOrder(skuId, userId, key) {
  const body = JSON.stringify({ skuId, quantity: 1, userId });
  const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': key };
  const response = http.post(`${BASE_URL}/orders`, body, named('POST /orders', headers));
  const order = json(response);
  check(response, {
    'order: status 200': (r) => r.status === 200,
    'order: has an orderId': () => isOrder(order),
  });
  return { response, orderId: isOrder(order) ? String(order.orderId) : null };
}

/** The newest orders of a user; answers an empty list where the search failed. */
export function searchByUser(userId) {
  const url = `${BASE_URL}/search/orders?userId=${encodeURIComponent(userId)}`;
  const response = http.get(url, named('GET /search/orders'));
  const found = json(response);
  check(response, {
    'search: status 200': (r) => r.status === 200,
    'search: an array': () => Array.isArray(found),
    "search: only the user's orders": () => Array.isArray(found) && found.every((order) => order.userId === userId),
  });
  return Array.isArray(found) ? found : [];
}

/** What a shop's visitors do: 70 % place an order with a fresh key, 30 % search for the orders of a user. */
export function buyOrSearch(skus) {
  const userId = `load-${Math.floor(Math.random() * USERS)}`;
  if (Math.random() < ORDERS_SHARE) {
    placeOrder(skus[Math.floor(Math.random() * skus.length)], userId, freshKey());
  } else {
    searchByUser(userId);
  }
}

/** Reads one order. A status that is not expected counts as a failed request. */
export function getOrder(orderId, expectedStatus) {
  const parameters = named('GET /orders/{id}');
  parameters.responseCallback = http.expectedStatuses(expectedStatus);
  return http.get(`${BASE_URL}/orders/${orderId}`, parameters);
}
