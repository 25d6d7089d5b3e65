/* signal: to come */
