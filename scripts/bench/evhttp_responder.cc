// A bare REST responder: libevent's evhttp and RapidJSON, which TensorFlow Serving's REST API is built on. It reads rows of
// numbers into floats and answers as many rows of a given number of floats; it runs no model.
//
// Usage: evhttp_responder PORT OUTPUTS

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "rapidjson/document.h"
#include "rapidjson/prettywriter.h"
#include "rapidjson/stringbuffer.h"

namespace {

using Writer = rapidjson::PrettyWriter<rapidjson::StringBuffer>;

constexpr unsigned kParseFlags = rapidjson::kParseIterativeFlag | rapidjson::kParseNanAndInfFlag |
                                 rapidjson::kParseStopWhenDoneFlag;

// Writes six digits if they read back as the same number, and nine otherwise.
void WriteFloat(float value, Writer* writer) {
  char text[32];
  int size = std::snprintf(text, sizeof(text), "%.6g", value);
  if (std::strtof(text, nullptr) != value) size = std::snprintf(text, sizeof(text), "%.9g", value);
  if (std::strcspn(text, ".e") == static_cast<size_t>(size)) {
    text[size++] = '.';
    text[size++] = '0';
  }
  writer->RawValue(text, size, rapidjson::kNumberType);
}

// Reads the floats of all rows; returns false if the body does not consist of rows of numbers.
bool ReadRows(const rapidjson::Document& document, std::vector<float>* values, size_t* rows) {
  if (!document.IsObject()) return false;
  const auto member = document.FindMember("instances");
  if (member == document.MemberEnd() || !member->value.IsArray()) return false;
  for (const auto& row : member->value.GetArray()) {
    if (!row.IsArray()) return false;
    for (const auto& value : row.GetArray()) {
      if (!value.IsNumber()) return false;
      values->push_back(value.GetFloat());
    }
  }
  *rows = member->value.Size();
  return *rows > 0;
}

std::string Answer(const std::vector<float>& values, size_t rows, size_t outputs) {
  rapidjson::StringBuffer buffer;
  Writer writer(buffer);
  writer.SetFormatOptions(rapidjson::kFormatSingleLineArray);
  writer.StartObject();
  writer.Key("predictions");
  writer.StartArray();
  const size_t columns = values.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    writer.StartArray();
    for (size_t output = 0; output < outputs; ++output) {
      WriteFloat(values[row * columns + output % columns], &writer);
    }
    writer.EndArray();
  }
  writer.EndArray();
  writer.EndObject();
  return std::string(buffer.GetString(), buffer.GetSize());
}

void Handle(evhttp_request* request, void* argument) {
  evbuffer* body = evhttp_request_get_input_buffer(request);
  const size_t size = evbuffer_get_length(body);
  const char* text = reinterpret_cast<const char*>(evbuffer_pullup(body, -1));
  rapidjson::Document document;
  document.Parse<kParseFlags>(text, size);
  std::vector<float> values;
  size_t rows = 0;
  if (document.HasParseError() || !ReadRows(document, &values, &rows)) {
    evhttp_send_error(request, 400, nullptr);
    return;
  }
  const std::string answer = Answer(values, rows, *static_cast<size_t*>(argument));
  evbuffer* out = evbuffer_new();
  evbuffer_add(out, answer.data(), answer.size());
  evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "application/json");
  evhttp_send_reply(request, 200, "OK", out);
  evbuffer_free(out);
}

void Stop(evutil_socket_t, short, void* base) { event_base_loopbreak(static_cast<event_base*>(base)); }

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  size_t outputs = std::strtoul(arguments[2], nullptr, 10);
  event_base* base = event_base_new();
  evhttp* server = evhttp_new(base);
  evhttp_set_gencb(server, Handle, &outputs);
  if (evhttp_bind_socket(server, "127.0.0.1", std::atoi(arguments[1])) != 0) return 1;
  event* stop = evsignal_new(base, SIGTERM, Stop, base);
  event_add(stop, nullptr);
  event_base_dispatch(base);
  event_free(stop);
  evhttp_free(server);
  event_base_free(base);
  return 0;
}
