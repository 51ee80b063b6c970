import { getJson, keyHeaders } from "./key.js";

SwaggerUIBundle({
  spec: await getJson("openapi.json"),
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: (request) => ({ ...request, headers: { ...keyHeaders(), ...request.headers } }),
});
