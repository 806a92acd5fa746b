# frozen_string_literal: true

# A Rack application for puma.toml, puma-cluster.toml and unicorn.toml: reports which process answers and what it received.
NAME = "gen#{ENV.fetch('PSFLIP_GENERATION', '0')}"

app = lambda do |env|
  body = env['rack.input'].read
  echo = env['QUERY_STRING'].delete_prefix('echo=')
  text = "name=#{NAME} pid=#{Process.pid} body=#{body.bytesize} echo=#{echo}\n"
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => text.bytesize.to_s }, [text]]
end

run app
